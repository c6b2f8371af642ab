package kube

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

const attachmentList = "WATCHLIST /apis/storage.k8s.io/v1/volumeattachments"

// lookTime is the time of a wait that is to end in vain: enough for what it looks at first, on a busy machine too.
const lookTime = 10 * time.Second

// attach attaches a volume to the node, as the attach-detach controller does.
func (e *labEnv) attach(node, volume string) {
	e.Helper()
	attachments := e.Client().StorageV1().VolumeAttachments()
	_, err := attachments.Create(e.Context(), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "csi-" + volume},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "ebs.csi.aws.com", NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume},
		},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
	e.Cleanup(func() { _ = attachments.Delete(context.Background(), "csi-"+volume, metav1.DeleteOptions{}) })
}

// hold adds a finalizer to an attachment, as a driver does, and returns what removes it.
func (e *labEnv) hold(volume string) (release func()) {
	e.Helper()
	set := func(finalizers string) {
		patch := []byte(`{"metadata":{"finalizers":` + finalizers + `}}`)
		_, err := e.Client().StorageV1().VolumeAttachments().Patch(context.WithoutCancel(e.Context()), "csi-"+volume, types.MergePatchType, patch, metav1.PatchOptions{})
		require.NoError(e, err)
	}
	set(`["example.com/driver"]`)
	return func() { set("null") }
}

func (e *labEnv) detach(volume string) {
	e.Helper()
	require.NoError(e, e.Client().StorageV1().VolumeAttachments().Delete(e.Context(), "csi-"+volume, metav1.DeleteOptions{}))
}

// claim makes a volume and a claim that is bound to it.
func (e *labEnv) claim(name, volume string) {
	e.Helper()
	modes, size := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse("1Gi")}
	_, err := e.Client().CoreV1().PersistentVolumes().Create(e.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: volume}},
		},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
	e.Cleanup(func() {
		require.NoError(e, e.Client().CoreV1().PersistentVolumes().Delete(context.Background(), volume, metav1.DeleteOptions{}))
	})
	e.claimOf(e.namespace, name, volume)
	e.eventually(func() bool { return e.phaseOf(e.namespace, name) == corev1.ClaimBound })
}

// claimOf creates a claim that names a volume.
func (e *labEnv) claimOf(namespace, name, volume string) {
	e.Helper()
	none := ""
	_, err := e.Client().CoreV1().PersistentVolumeClaims(namespace).Create(e.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &none, VolumeName: volume,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
}

func (e *labEnv) phaseOf(namespace, claim string) corev1.PersistentVolumeClaimPhase {
	e.Helper()
	found, err := e.Client().CoreV1().PersistentVolumeClaims(namespace).Get(e.Context(), claim, metav1.GetOptions{})
	require.NoError(e, err)
	return found.Status.Phase
}

// Anybody may name another's volume in a claim. Only Kubernetes binds it.
func TestAwaitDetached_ClaimNamesAVolumeOfAnother_VolumeIsAwaited(t *testing.T) {
	e := newLabEnv(t)
	node, volume := e.bareNode(), e.namespace+"-volume"
	e.claim("owner", volume)
	e.claimOf(e.namespace, "other", volume)
	e.eventually(func() bool { return e.phaseOf(e.namespace, "other") == corev1.ClaimPending })
	e.attach(node.Name, volume)
	ctx, cancel := context.WithTimeout(t.Context(), lookTime)
	defer cancel()
	_, err := e.client.AwaitDetached(ctx, node, e.staying("other"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "volumes still attached: "+volume)
	_, err = e.client.AwaitDetached(t.Context(), node, e.staying("owner"))
	require.NoError(t, err)
}

func (e *labEnv) staying(claims ...string) []drain.Pod {
	return []drain.Pod{{Ref: refNamed(e.namespace, "stays", "1"), Claims: claims}}
}

func TestAwaitDetached_NoneOnNode_OneRequest(t *testing.T) {
	e := newLabEnv(t)
	node, through := e.bareNode(), &network{}
	e.attach("another-"+node.Name, e.namespace+"-other")
	detached, err := e.clientThrough(through).AwaitDetached(t.Context(), node, e.staying("data"))
	require.NoError(t, err)
	require.Zero(t, detached)
	require.Equal(t, 1, len(through.seen))
	require.Equal(t, 1, through.requests(attachmentList))
}

// The pods that had the volumes may be gone: an earlier invocation or another client has evicted them.
func TestAwaitDetached_PodsGoneBefore_WaitsForVolumes(t *testing.T) {
	for name, answer := range listings {
		t.Run(name, func(t *testing.T) {
			e := newLabEnv(t)
			node, through := e.bareNode(), &network{answer: answer}
			one, other, stays := e.namespace+"-one", e.namespace+"-other", e.namespace+"-stays"
			for _, volume := range []string{one, other, stays} {
				e.attach(node.Name, volume)
			}
			e.claim("data", stays)
			type result struct {
				detached int
				err      error
			}
			done := make(chan result, 1)
			go func() {
				detached, err := e.clientThrough(through).AwaitDetached(t.Context(), node, e.staying("data", "gone"))
				done <- result{detached, err}
			}()
			claims := "GET /api/v1/namespaces/" + e.namespace + "/persistentvolumeclaims/"
			e.eventually(func() bool { return through.requests(claims+"data", claims+"gone") == 2 })
			e.detach(one)
			require.Empty(t, done)
			e.detach(other)
			require.Equal(t, result{2, nil}, <-done)
		})
	}
}

// The driver removes its finalizer when the volume is detached. Until then a deleted attachment is there, and counts.
func TestAwaitDetached_AttachmentIsBeingDeleted_WaitsUntilItIsGone(t *testing.T) {
	e := newLabEnv(t)
	node, through := e.bareNode(), &network{}
	held, other := e.namespace+"-held", e.namespace+"-other"
	e.attach(node.Name, held)
	e.attach(node.Name, other)
	release := e.hold(held)
	e.detach(held)
	type result struct {
		detached int
		err      error
	}
	done := make(chan result, 1)
	go func() {
		detached, err := e.clientThrough(through).AwaitDetached(t.Context(), node, e.staying("none"))
		done <- result{detached, err}
	}()
	e.eventually(func() bool {
		return through.requests("GET /api/v1/namespaces/"+e.namespace+"/persistentvolumeclaims/none") == 1
	})
	e.detach(other)
	release()
	require.Equal(t, result{2, nil}, <-done, "both were there at the first look")
}

func TestAwaitDetached_TimeOver_ErrorNamesSome(t *testing.T) {
	e := newLabEnv(t)
	node := e.bareNode()
	for i := range maxVolumesNamed + 5 {
		e.attach(node.Name, fmt.Sprintf("%s-%02d", e.namespace, i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), lookTime)
	defer cancel()
	detached, err := e.client.AwaitDetached(ctx, node, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, e.namespace+"-09 and 5 more")
	require.NotContains(t, err.Error(), e.namespace+"-10")
	require.Zero(t, detached)
}

// A claim's name in a pod is not checked by the API server, and must not lead anywhere else.
func TestAwaitDetached_ClaimUnreadable_WaitsAndSaysSo(t *testing.T) {
	e := newLabEnv(t)
	node := e.bareNode()
	e.attach(node.Name, e.namespace+"-data")
	ctx, cancel := context.WithTimeout(t.Context(), lookTime)
	defer cancel()
	_, err := e.client.AwaitDetached(ctx, node, e.staying("../../../secrets/x"))
	require.ErrorContains(t, err, "volumes still attached: "+e.namespace+"-data")
	require.ErrorContains(t, err, "get claim")
}
