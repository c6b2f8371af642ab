package rotate

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"quiesce/internal/escort"
)

const key = "userlist.txt"

// podWith mounts the userlist, as changed.
func podWith(change func(*corev1.PodSpec)) *corev1.Pod {
	p := poolerPod("pgbouncer-0", "/etc/pgbouncer/users/list")
	p.Spec.Volumes[0].Secret.Items[0] = corev1.KeyToPath{Key: key, Path: "list"}
	change(&p.Spec)
	return p
}

func TestFileOf_Mounts_SeenOrRefused(t *testing.T) {
	environment := corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: listName}}}}
	for name, c := range map[string]struct {
		change     func(*corev1.PodSpec)
		file, says string
	}{
		"folder":   {func(*corev1.PodSpec) {}, "/etc/pgbouncer/users/list", ""},
		"all keys": {func(s *corev1.PodSpec) { s.Volumes[0].Secret.Items = nil }, "/etc/pgbouncer/users/userlist.txt", ""},
		"projected": {func(s *corev1.PodSpec) {
			s.Volumes[0].VolumeSource = corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: listName}}},
			}}}
		}, "/etc/pgbouncer/users/userlist.txt", ""},
		"subPath":     {func(s *corev1.PodSpec) { s.Containers[0].VolumeMounts[0].SubPath = "list" }, "", "subPath"},
		"subPathExpr": {func(s *corev1.PodSpec) { s.Containers[0].VolumeMounts[0].SubPathExpr = "$(X)" }, "", "subPath"},
		"no such key": {func(s *corev1.PodSpec) { s.Volumes[0].Secret.Items[0].Key = "other" }, "", "no key"},
		"init container": {func(s *corev1.PodSpec) {
			s.InitContainers = s.Containers
			s.Containers = []corev1.Container{{Name: "pgbouncer"}}
		}, "", "init container"},
		"environment": {func(s *corev1.PodSpec) {
			s.Volumes = nil
			s.Containers[0].Env = []corev1.EnvVar{environment}
		}, "", "environment"},
		"another Secret": {func(s *corev1.PodSpec) { s.Volumes[0].Secret.SecretName = "other" }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			file, why := fileOf(podWith(c.change), listName, key)
			require.Equal(t, c.file, file)
			require.Contains(t, why, c.says)
			require.Equal(t, c.says == "", why == "")
		})
	}
}

func secretLists(objects ...*corev1.Pod) (*SecretLists, *fake.Clientset) {
	client := fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: listName}, Data: map[string][]byte{key: []byte(`"app_blue" "x"`)},
	})
	for _, p := range objects {
		_ = client.Tracker().Add(p)
	}
	return &SecretLists{Client: client, Lists: []SecretKey{{namespace, listName, key}}, Logins: [2]string{blue, green}}, client
}

func TestSecretLists_PodsThatCannotFollow_Refused(t *testing.T) {
	subPath := podWith(func(s *corev1.PodSpec) { s.Containers[0].VolumeMounts[0].SubPath = "list" })
	unmounted := podWith(func(s *corev1.PodSpec) { s.Volumes = nil })
	unmounted.Name = "pgbouncer-1"
	finished := unmounted.DeepCopy()
	finished.Status.Phase = corev1.PodSucceeded
	other := unmounted.DeepCopy()
	other.Labels = nil
	good := podWith(func(*corev1.PodSpec) {})
	for name, c := range map[string]struct {
		pods []*corev1.Pod
		says string
	}{
		"good":     {[]*corev1.Pod{good, finished, other}, ""},
		"none":     {[]*corev1.Pod{other}, "no pod mounts"},
		"subPath":  {[]*corev1.Pod{subPath}, "subPath"},
		"one more": {[]*corev1.Pod{good, unmounted}, "pgbouncer-1 is a pooler and mounts no --userlist"},
	} {
		t.Run(name, func(t *testing.T) {
			lists, _ := secretLists(c.pods...)
			err := lists.Check(t.Context(), blue, green)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestSecretLists_SecretsOfOthers_Refused(t *testing.T) {
	yes := true
	for says, change := range map[string]func(*corev1.Secret){
		"immutable": func(s *corev1.Secret) { s.Immutable = &yes },
		"ExternalSecret users": func(s *corev1.Secret) {
			s.OwnerReferences = []metav1.OwnerReference{{Kind: "ExternalSecret", Name: "users", Controller: &yes}}
		},
		"passwordSecret": func(s *corev1.Secret) { s.Labels = map[string]string{"cnpg.io/cluster": "orders"} },
		"auth_query":     func(s *corev1.Secret) { s.Data = nil },
	} {
		t.Run(says, func(t *testing.T) {
			lists, client := secretLists(podWith(func(*corev1.PodSpec) {}))
			require.NoError(t, changeSecret(t, client, change))
			require.ErrorContains(t, lists.Check(t.Context(), blue, green), says)
		})
	}
	require.Contains(t, keptByOther(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "app.orders.credentials.postgresql.acid.zalan.do"}}), "usersWithSecretRotation")
}

func changeSecret(t *testing.T, client *fake.Clientset, do func(*corev1.Secret)) error {
	return change(t.Context(), client, namespace, listName, func(s *corev1.Secret) error { do(s); return nil })
}

func TestSecretLists_Record_IsKeptAndChecked(t *testing.T) {
	lists, client := secretLists()
	r, err := lists.Record(t.Context())
	require.NoError(t, err)
	require.Zero(t, r)
	require.NoError(t, lists.SetRecord(t.Context(), Record{From: blue, To: green, Step: Moving}))
	r, err = lists.Record(t.Context())
	require.NoError(t, err)
	require.Equal(t, Moving, r.Step)
	require.NoError(t, changeSecret(t, client, func(s *corev1.Secret) { s.Annotations[Annotation] = "forged" }))
	_, err = lists.Record(t.Context())
	require.ErrorContains(t, err, "no record of a rotation")
}

func TestSecretApp_Move_KeepsTheLoginBeforeUntilSettled(t *testing.T) {
	client := fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: appName},
		Data:       map[string][]byte{"user": []byte(blue), "word": []byte(firstWord), "host": []byte("db")},
	})
	app := &SecretApp{Client: client, Namespace: "shop", Name: appName, UserKey: "user", PasswordKey: "word"}
	to := escort.Login{User: green, Password: "another"}
	from := escort.Login{User: blue, Password: firstWord}
	require.NoError(t, app.Move(t.Context(), from, to))
	require.NoError(t, app.Move(t.Context(), from, to), "it is done already")
	require.ErrorContains(t, app.Move(t.Context(), from, escort.Login{User: green, Password: "third"}), "its login has changed meanwhile")
	current, previous, err := app.Login(t.Context())
	require.NoError(t, err)
	require.Equal(t, to, current)
	require.Equal(t, escort.Login{User: blue, Password: firstWord}, previous)
	require.NoError(t, app.Settle(t.Context()))
	_, previous, err = app.Login(t.Context())
	require.NoError(t, err)
	require.Zero(t, previous)
	current, err = app.Current(t.Context())
	require.NoError(t, err)
	require.Equal(t, to, current)
}

// A proxy repeats a write that was done. The conflict has it made once more, and the old password must not be lost.
func TestSecretApp_WriteIsRepeated_LoginBeforeIsKept(t *testing.T) {
	client := fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: appName},
		Data:       map[string][]byte{"user": []byte(blue), "word": []byte(firstWord)},
	})
	repeated := false
	client.PrependReactor("update", "secrets", func(action ktesting.Action) (bool, runtime.Object, error) {
		if repeated {
			return false, nil, nil
		}
		repeated = true
		update := action.(ktesting.UpdateAction)
		require.NoError(t, client.Tracker().Update(update.GetResource(), update.GetObject(), update.GetNamespace()))
		return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), appName, errors.New("the object has been modified"))
	})
	app := &SecretApp{Client: client, Namespace: "shop", Name: appName, UserKey: "user", PasswordKey: "word"}
	to := escort.Login{User: green, Password: "another"}
	require.NoError(t, app.Move(t.Context(), escort.Login{User: blue, Password: firstWord}, to))
	current, previous, err := app.Login(t.Context())
	require.NoError(t, err)
	require.Equal(t, to, current)
	require.Equal(t, escort.Login{User: blue, Password: firstWord}, previous)
}

// A write whose answer is lost may have been done. The next record replaces it all the same.
func TestSecretLists_AnswerOfAWriteIsLost_NextRecordIsWritten(t *testing.T) {
	lists, client := secretLists()
	_, err := lists.Record(t.Context())
	require.NoError(t, err)
	lost := false
	client.PrependReactor("update", "secrets", func(action ktesting.Action) (bool, runtime.Object, error) {
		if lost {
			return false, nil, nil
		}
		lost = true
		update := action.(ktesting.UpdateAction)
		require.NoError(t, client.Tracker().Update(update.GetResource(), update.GetObject(), namespace))
		return true, nil, errors.New("the connection broke")
	})
	require.ErrorContains(t, lists.SetRecord(t.Context(), Record{From: blue, To: green, Step: Moving}), "the connection broke")
	require.NoError(t, lists.SetRecord(t.Context(), Record{From: blue, To: green, Step: Quiet}))
	require.NoError(t, changeSecret(t, client, func(s *corev1.Secret) { s.Annotations[Annotation] = "of another run" }))
	require.ErrorIs(t, lists.SetRecord(t.Context(), Record{From: blue, To: green, Step: Closing}), errAnotherRun)
}
