package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"quiesce/internal/postgres"
	"quiesce/test/env"
)

// person is somebody with a kubeconfig and quiescectl, and nothing else.
type person struct {
	*patroniFixture
	program, kubeconfig string
}

// personManifest allows what `quiescectl resume` says that it needs, and no more.
const personManifest = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: person, namespace: quiesce}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, list, update, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: person, namespace: quiesce}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: person}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: person}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: person, namespace: %[1]s}
rules:
  - {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [secrets], resourceNames: [pgbouncer-admin], verbs: [get]}
  - {apiGroups: [""], resources: [pods/portforward], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: person, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: person}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: person}]
`

func (p *patroniFixture) newPerson() *person {
	p.Helper()
	folder := p.TempDir()
	who := &person{p, filepath.Join(folder, "quiescectl"), filepath.Join(folder, "kubeconfig")}
	root, err := env.Root()
	require.NoError(p, err)
	require.NoError(p, env.BuildProgram(p.ctx, root, "./infra/quiescectl", who.program))
	manifest := filepath.Join(folder, "person.yaml")
	require.NoError(p, os.WriteFile(manifest, fmt.Appendf(nil, personManifest, p.Name), 0o600))
	require.NoError(p, p.Lab.Apply(p.ctx, manifest))
	access, err := clientcmd.LoadFromFile(p.Lab.Kubeconfig())
	require.NoError(p, err)
	for _, user := range access.AuthInfos {
		user.Impersonate = "person"
	}
	require.NoError(p, clientcmd.WriteToFile(*access, who.kubeconfig))
	return who
}

// resume runs `quiescectl resume`. Consoles are reached as a person reaches them: through the API server and the kubelets of the poolers.
func (w *person) resume(args ...string) (status int, out string) {
	w.Helper()
	command := exec.CommandContext(w.ctx, w.program, append([]string{"resume"}, args...)...)
	command.Env = []string{"HOME=" + w.TempDir(), "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + w.kubeconfig}
	var stdout, progress bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &progress
	err := command.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(w, err)
	}
	w.Logf("quiescectl resume ends with status %d:\n%s%s", command.ProcessState.ExitCode(), stdout.String(), progress.String())
	return command.ProcessState.ExitCode(), stdout.String()
}

// resumePaused resumes what a killed switchover has paused, as soon as its Lease may be taken.
func (w *person) resumePaused() {
	w.Helper()
	login := []string{"--console-secret", w.Name + "/pgbouncer-admin"}
	status, out := w.resume(login...)
	require.Equal(w, 1, status)
	require.Contains(w, out, "held     <none>     <none>\n")
	require.Contains(w, out, "lease "+w.markedLease(false)+" is held by ")
	w.requirePaused()
	w.until("a person's resume", func() (bool, string) {
		status, out = w.resume(login...)
		return status != 1 || !strings.Contains(out, "held"), out
	})
	require.Zero(w, status, out)
	cluster := w.Name + "/" + w.patroni.Scope()
	require.Regexp(w, `^STATUS +CLUSTERS +POOLERS\nresumed +`+cluster+" +<none>\n$", out)
	w.requireNothingPaused()
	w.markedLease(true)
	require.NoError(w, w.AwaitCommits(w.ctx, rowCommits))
	w.requireNothingToResume(login...)
}

func (w *person) requireNothingToResume(login ...string) {
	w.Helper()
	status, out := w.resume(login...)
	require.Zero(w, status)
	require.Equal(w, "no pooler is paused by quiesce\n", out)
}

// markedLease returns the name of the only Lease with the mark of a move, and requires that the mark says this of its poolers.
func (w *person) markedLease(resumed bool) (name string) {
	w.Helper()
	leases, err := w.Lab.Client().CoordinationV1().Leases("quiesce").List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	for _, l := range leases.Items {
		if mark := l.Annotations["quiesce/paused"]; mark != "" && strings.Contains(mark, `"`+w.Name+`"`) {
			require.Empty(w, name, "another Lease has a mark: %s", l.Name)
			require.Equal(w, resumed, postgres.IsResumed(mark), mark)
			name = l.Name
		}
	}
	require.NotEmpty(w, name, "no Lease has a mark")
	return name
}
