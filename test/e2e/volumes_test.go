package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// An instance that terminates with an attached disk keeps the disk for six minutes, and the database that needs it waits as long.
func TestVolumes_Attached_CompletedAfterDetach(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	disk := s.disk("data", target)
	s.runPodOn(target, "database", claiming("data"))
	answer := s.begin(target)
	s.until("the attachments are watched", func() (bool, error) {
		return s.hasAsked("volumeattachments") || len(s.AWS.Completions(target.ID)) > 0, nil
	})
	require.Empty(t, s.podsOn(target), "disks are looked at once their pods are gone")

	// A deleted attachment still exists until its finalizer is gone: the driver is detaching.
	require.NoError(t, s.Lab.Client().StorageV1().VolumeAttachments().Delete(s.ctx, disk, metav1.DeleteOptions{}))
	time.Sleep(time.Second) // the driver takes its time, in which nothing may be completed
	require.Empty(t, s.AWS.Completions(target.ID))
	detached := time.Now()
	s.removeAttachmentFinalizer(disk)
	r := answer()
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.StatusDrained, r.Status)
	s.requireCompletedOnce(target)
	require.True(t, s.AWS.Completions(target.ID)[0].At.After(detached))
	require.Contains(t, s.function.Output(), "volumes detached")
}

// A broken driver must not hold the instance forever, but a log line must name the disk.
func TestVolumes_NeverDetached_CompletedAfterTimeout(t *testing.T) {
	const patience = 5 * time.Second // of which the first list of attachments takes a part
	s := newFixture(t, 1, "drain: {volumeDetachTimeout: 5s}")
	target := s.instances[0]
	disk := s.disk("data", target)
	s.runPodOn(target, "database", claiming("data"), stopsAfter("100ms"))
	r := s.drain(target)
	require.Empty(t, r.ErrorType, r.ErrorMessage)
	require.Equal(t, termination.Continue, r.LifecycleResult)
	require.GreaterOrEqual(t, r.FinishedAt.Sub(r.pod(t, "database").GoneAt), patience)
	require.Contains(t, s.function.Output(), "volumes still attached")
	require.Contains(t, s.function.Output(), volumeOf(s, "data"))
	s.requireCompletedOnce(target)
	s.removeAttachmentFinalizer(disk)
}

// What is attached says which volumes there are. A function that remembers the pods that it evicted forgets them with its process.
func TestVolumes_EvictedByEarlierInvocation_Awaited(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	disk := s.disk("data", target)
	s.runPodOn(target, "database", claiming("data"), stopsAfter("100ms"))
	s.runPodOn(target, "slow", untilDeleted)
	event := s.terminate(target).Body
	end := s.beginOn(s.function, event)
	s.awaitGone("database")
	s.function.Kill()
	end()
	s.expireLease(target)
	s.forceDelete("slow")
	s.requireDetachAwaited(target, disk, s.beginOn(s.function, event))
}

// An operator, or kubectl drain, may have evicted the pods before.
func TestVolumes_EvictedByOthers_Awaited(t *testing.T) {
	s := newFixture(t, 1)
	target := s.instances[0]
	disk := s.disk("data", target)
	s.runPodOn(target, "database", claiming("data"), stopsAfter("100ms"))
	require.NoError(t, s.Lab.Client().CoreV1().Pods(s.group).Delete(s.ctx, "database", metav1.DeleteOptions{}))
	s.awaitGone("database")
	s.requireDetachAwaited(target, disk, s.begin(target))
}

// requireDetachAwaited requires that a drain of an empty node ends only after the disk is detached.
func (s *fixture) requireDetachAwaited(target env.Instance, disk string, end func() report) {
	s.Helper()
	s.until("the attachments are watched", func() (bool, error) {
		return s.hasAsked("volumeattachments") || len(s.AWS.Completions(target.ID)) > 0, nil
	})
	require.NoError(s, s.Lab.Client().StorageV1().VolumeAttachments().Delete(s.ctx, disk, metav1.DeleteOptions{}))
	require.Empty(s, s.AWS.Completions(target.ID))
	detached := time.Now()
	s.removeAttachmentFinalizer(disk)
	r := end()
	require.Equal(s, termination.StatusDrained, r.Status, r.ErrorMessage)
	s.requireCompletedOnce(target)
	require.True(s, s.AWS.Completions(target.ID)[0].At.After(detached))
}

// A disk of a pod that stays is not waited for, and neither is one of another node.
func TestVolumes_OfPodsThatStay_NotWaitedFor(t *testing.T) {
	s := newFixture(t, 2)
	target := s.instances[0]
	own, other := s.disk("own", target), s.disk("other", s.instances[1])
	s.Cleanup(func() { s.removeAttachmentFinalizer(own); s.removeAttachmentFinalizer(other) })
	s.runPodOn(target, "stays", claiming("own"), annotated(drain.OptOutAnnotation, "false"))
	s.runPodOn(target, "web", stopsAfter("100ms"))
	r := s.drain(target)
	require.Equal(t, termination.StatusDrained, r.Status, r.ErrorMessage)
	require.Less(t, r.FinishedAt.Sub(r.StartedAt), 20*time.Second)
	require.NotContains(t, s.function.Output(), "volumes still attached")
}

func (s *fixture) hasAsked(resource string) bool {
	s.Helper()
	return slices.ContainsFunc(s.requests(s.function), func(r lab.Request) bool { return r.Resource == resource && r.Code == http.StatusOK })
}

func volumeOf(s *fixture, claim string) string { return s.group + "-" + claim }

// disk makes a claim, its bound volume, and that volume's attachment to the instance's node, kept by the driver's finalizer. It
// returns the attachment's name.
func (s *fixture) disk(claim string, i env.Instance) (attachment string) {
	s.Helper()
	client, volume, none := s.Lab.Client(), volumeOf(s, claim), ""
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	_, err := client.CoreV1().PersistentVolumes().Create(s.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: volume},
			},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	claims := client.CoreV1().PersistentVolumeClaims(s.group)
	_, err = claims.Create(s.ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claim},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: &none, VolumeName: volume,
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("claim "+claim+" is bound", func() (bool, error) {
		c, err := claims.Get(s.ctx, claim, metav1.GetOptions{})
		return err == nil && c.Status.Phase == corev1.ClaimBound, err
	})
	_, err = client.StorageV1().VolumeAttachments().Create(s.ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "csi-" + volume, Finalizers: []string{"external-attacher/ebs-csi-aws-com"}},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "ebs.csi.aws.com", NodeName: i.Node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	return "csi-" + volume
}

// removeAttachmentFinalizer does what the driver does after it has detached the disk.
func (s *fixture) removeAttachmentFinalizer(attachment string) {
	s.Helper()
	_, err := s.Lab.Client().StorageV1().VolumeAttachments().Patch(s.ctx, attachment, types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	require.NoError(s, err)
}

func claiming(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
	}
}
