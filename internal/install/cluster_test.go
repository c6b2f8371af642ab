package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/parts/lab"
)

// What server-side apply does is the API server's own behavior, so these tests have a real one. They share it, one after the other.
func TestTarget_RealAPIServer_UpVerifyDownWork(t *testing.T) {
	lab.Require(t)
	l, err := lab.Start(t.Context(), lab.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	for _, name := range []string{"db", "crm", "pool", "pool-b"} {
		_, err := l.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	target, err := Connect(l.Admin())
	require.NoError(t, err)
	objects, err := Objects(everything)
	require.NoError(t, err)
	f := fixture{l, target, objects}
	for _, test := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"nothing installed: verify names all and changes nothing", f.verifyEmpty},
		{"up twice: the second changes nothing", f.upTwice},
		{"somebody changed a rule: verify names the field and up needs force", f.changedByHand},
		{"fewer options: verify and up name what is extra, and up removes it if asked", f.fewerOptions},
		{"lease held or poolers paused: down refuses", f.downRefused},
		{"down twice: the second finds nothing", f.downTwice},
		{"kubectl apply of render: the same is installed", f.kubectlInstallsTheSame},
		{"up after kubectl apply: nothing changes, and no force is needed", f.upAfterKubectl},
	} {
		require.True(t, t.Run(test.name, test.do))
	}
}

type fixture struct {
	*lab.Lab
	target  *Target
	objects Set
}

func results(changes []Change) (all []string) {
	for _, c := range changes {
		all = append(all, c.Result)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (f fixture) verifyEmpty(t *testing.T) {
	for range 2 {
		found, err := f.target.Verify(t.Context(), f.objects)
		require.NoError(t, err)
		require.Len(t, found, len(f.objects))
		require.Equal(t, []string{Created}, results(found))
	}
}

func (f fixture) upTwice(t *testing.T) {
	done, err := f.target.Up(t.Context(), f.objects, UpOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{Created}, results(done))
	for _, again := range []func() ([]Change, error){
		func() ([]Change, error) { return f.target.Up(t.Context(), f.objects, UpOptions{}) },
		func() ([]Change, error) { return f.target.Verify(t.Context(), f.objects) },
	} {
		done, err = again()
		require.NoError(t, err)
		require.Equal(t, []string{Unchanged}, results(done), "%v", done)
	}
}

func (f fixture) changedByHand(t *testing.T) {
	roles := f.Client().RbacV1().ClusterRoles()
	role, err := roles.Get(t.Context(), "quiesce", metav1.GetOptions{})
	require.NoError(t, err)
	role.Rules[0].Verbs = append(role.Rules[0].Verbs, "delete")
	_, err = roles.Update(t.Context(), role, metav1.UpdateOptions{FieldManager: "somebody"})
	require.NoError(t, err)

	found, err := f.target.Verify(t.Context(), f.objects)
	require.NoError(t, err)
	require.Equal(t, []string{Changed, Unchanged}, results(found))
	changed := found[slices.IndexFunc(found, func(c Change) bool { return c.Result == Changed })]
	require.Equal(t, "ClusterRole quiesce", changed.Object)
	require.Equal(t, []string{`rules[0].verbs: ["get","list","watch","patch","delete"] -> ["get","list","watch","patch"]`}, changed.Fields)

	_, err = f.target.Up(t.Context(), f.objects, UpOptions{})
	require.ErrorContains(t, err, "--force-conflicts takes these fields over")
	require.ErrorContains(t, err, "somebody")
	done, err := f.target.Up(t.Context(), f.objects, UpOptions{Force: true})
	require.NoError(t, err)
	require.Equal(t, []string{Changed, Unchanged}, results(done))
	role, err = roles.Get(t.Context(), "quiesce", metav1.GetOptions{})
	require.NoError(t, err)
	require.NotContains(t, role.Rules[0].Verbs, "delete")
}

// fewerOptions leaves the permissions that a manifest offers in a comment. Those of somebody else are not looked at.
func (f fixture) fewerOptions(t *testing.T) {
	of := func(subject string) []rbacv1.Subject {
		return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: subject}}
	}
	view := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
	f.bind(t, "quiesce-volumes", of("quiesce"), rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "quiesce-volumes"})
	f.bind(t, "quiesce-view", of("quiesce"), view)
	f.bind(t, "quiesce-readers", of("people"), view)
	volumes := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "quiesce-volumes"}}
	_, err := f.Client().RbacV1().ClusterRoles().Create(t.Context(), volumes, metav1.CreateOptions{})
	require.NoError(t, err)

	fewer, err := Objects(Options{Consoles: everything.Consoles[:1], Patroni: everything.Patroni[:1]})
	require.NoError(t, err)
	want := []string{
		"ClusterRoleBinding quiesce-view",
		"Role crm/quiesce-postgres-demo", "Role db/quiesce-postgres-billing", "Role pool-b/quiesce-console",
		"RoleBinding crm/quiesce-postgres-demo", "RoleBinding db/quiesce-postgres-billing", "RoleBinding pool-b/quiesce-console",
	}
	for _, look := range []func() ([]Change, error){
		func() ([]Change, error) { return f.target.Verify(t.Context(), fewer) },
		func() ([]Change, error) { return f.target.Up(t.Context(), fewer, UpOptions{}) },
		func() ([]Change, error) { return f.target.Verify(t.Context(), fewer) },
	} {
		found, err := look()
		require.NoError(t, err)
		require.Equal(t, want, objectsWith(Extra, found))
		require.Equal(t, []string{Extra, Unchanged}, results(found))
	}
	done, err := f.target.Up(t.Context(), fewer, UpOptions{RemoveExtra: true})
	require.NoError(t, err)
	require.Equal(t, want, objectsWith(Deleted, done))
	found, err := f.target.Verify(t.Context(), fewer)
	require.NoError(t, err)
	require.Equal(t, []string{Unchanged}, results(found))
	_, err = f.Client().RbacV1().ClusterRoles().Get(t.Context(), "view", metav1.GetOptions{})
	require.NoError(t, err)

	done, err = f.target.Up(t.Context(), f.objects, UpOptions{})
	require.NoError(t, err)
	require.Equal(t, want[1:], objectsWith(Created, done))
}

// bind binds a role in the whole cluster.
func (f fixture) bind(t *testing.T, name string, subjects []rbacv1.Subject, role rbacv1.RoleRef) {
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: role}
	_, err := f.Client().RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	require.NoError(t, err)
}

func objectsWith(result string, changes []Change) (objects []string) {
	for _, c := range changes {
		if c.Result == result {
			objects = append(objects, c.Object)
		}
	}
	slices.Sort(objects)
	return objects
}

func (f fixture) upAfterKubectl(t *testing.T) {
	done, err := f.target.Up(t.Context(), f.objects, UpOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{Unchanged}, results(done))
	require.Len(t, done, len(f.objects))
}

func (f fixture) downRefused(t *testing.T) {
	leases := f.Client().CoordinationV1().Leases(namespace)
	holder, seconds := "function", int32(30)
	for name, lease := range map[string]coordinationv1.Lease{
		"a drain runs": {ObjectMeta: metav1.ObjectMeta{Name: "i-0abc"}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()}}},
		"poolers are paused": {ObjectMeta: metav1.ObjectMeta{Name: "postgres-db-orders", Annotations: map[string]string{"quiesce/paused": "{}"}}},
		"a drain may have paused pool/pgbouncer-0": {ObjectMeta: metav1.ObjectMeta{Name: "i-0def", Annotations: map[string]string{
			"quiesce/escort.gone": "{}", "quiesce/escort." + f.pooler(t): "{}",
		}}},
	} {
		_, err := leases.Create(t.Context(), &lease, metav1.CreateOptions{})
		require.NoError(t, err)
		done, err := f.target.Down(t.Context())
		require.ErrorContains(t, err, fmt.Sprintf("%s (%s)", lease.Name, name))
		require.Equal(t, name != "a drain runs", strings.Contains(err.Error(), "quiescectl resume"), err)
		require.Empty(t, done)
		require.NoError(t, leases.Delete(t.Context(), lease.Name, metav1.DeleteOptions{}))
	}
	nodes := f.Client().CoreV1().Nodes()
	closed := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Annotations: map[string]string{closedAnnotation: "{}"}}}
	_, err := nodes.Create(t.Context(), closed, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = f.target.Down(t.Context())
	require.ErrorContains(t, err, "node node-a (cordoned by a drain that is not over)")
	require.NoError(t, nodes.Delete(t.Context(), "node-a", metav1.DeleteOptions{}))
}

// pooler makes a pod, and returns its UID.
func (f fixture) pooler(t *testing.T) string {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pgbouncer-0"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "pgbouncer", Image: "pgbouncer"}}}}
	made, err := f.Client().CoreV1().Pods("pool").Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	return string(made.UID)
}

func (f fixture) downTwice(t *testing.T) {
	ended := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "i-0abc", Annotations: map[string]string{"quiesce/escort.gone": "{}"}}}
	_, err := f.Client().CoordinationV1().Leases(namespace).Create(t.Context(), ended, metav1.CreateOptions{})
	require.NoError(t, err)
	done, err := f.target.Down(t.Context())
	require.NoError(t, err)
	removed := objectsWith(Deleted, done)
	for _, o := range f.objects {
		require.Contains(t, removed, describe(o), "no flag names it")
	}
	require.Subset(t, removed, []string{"ClusterRole quiesce-volumes", "ClusterRoleBinding quiesce-volumes"})
	require.NotContains(t, removed, "ClusterRoleBinding quiesce-readers")
	require.Equal(t, "ValidatingAdmissionPolicy", f.objects[len(f.objects)-2].GetKind())
	require.Contains(t, done[len(done)-1].Object, "ValidatingAdmissionPolicy ", "permissions go first")
	require.Eventually(t, func() bool { // the API server empties a namespace before it goes
		_, err := f.Client().CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
		return err != nil
	}, time.Minute, 100*time.Millisecond)
	done, err = f.target.Down(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{Absent}, results(done))
}

func (f fixture) kubectlInstallsTheSame(t *testing.T) {
	text, err := Render(everything)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "quiesce.yaml")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	_, err = f.Kubectl(t.Context(), "apply", "--filename="+file)
	require.NoError(t, err)
	found, err := f.target.Verify(t.Context(), f.objects)
	require.NoError(t, err)
	for _, c := range found {
		require.Empty(t, c.Fields, c.Object)
		require.Equal(t, Unchanged, c.Result, c.Object)
	}
}
