package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInstall_UpVerifyDown_ExitStatusSaysWhetherItDiffers(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "quiesce.yaml")
	require.NoError(t, os.WriteFile(file, []byte("cluster: prod\nautoScalingGroups: [workers-a]\nmode: drain\nphases:\n"+
		"  - name: poolers\n    match: {namespaces: [default]}\n    escort: {pgbouncer: {secretRef: {namespace: default, name: admin}}}\n  - name: workloads\n"), 0o600))
	args := func(do string, more ...string) []string {
		return append([]string{"install", do, "--config", file, "--patroni", "default/orders=orders-0,orders-1"}, more...)
	}
	run := func(status int, args []string) ended {
		t.Helper()
		got := quiescectl(t, w.env, args...)
		require.Equal(t, status, got.status, "%v: %s", args, got.progress)
		return got
	}
	require.Contains(t, run(exitFindings, args("verify")).out, "created    Namespace quiesce\n")
	require.Contains(t, run(0, args("up")).out, "created    Role default/quiesce-console\n")
	require.Contains(t, run(0, args("up")).out, "unchanged  Role default/quiesce-postgres-orders\n")
	require.NotContains(t, run(0, args("verify")).out, "created")
	_, err := w.lab.Kubectl(t.Context(), "patch", "clusterrole", "quiesce", "--type=json", "--patch=[{\"op\":\"remove\",\"path\":\"/rules/1\"}]")
	require.NoError(t, err)
	require.Contains(t, run(exitFindings, args("verify")).out, "changed    ClusterRole quiesce\n           rules: [")
	require.Contains(t, run(exitError, args("up")).progress, "--force-conflicts takes these fields over")
	require.Contains(t, run(0, args("up", "--force-conflicts")).out, "changed    ClusterRole quiesce\n")
	fewer := func(do string, more ...string) []string {
		return append([]string{"install", do, "--config", file}, more...)
	}
	const extra = "extra      RoleBinding default/quiesce-postgres-orders\n"
	require.Contains(t, run(exitFindings, fewer("verify")).out, extra)
	got := run(0, fewer("up"))
	require.Contains(t, got.out, extra)
	require.Contains(t, got.out, "remove it with install up --remove-extra\n")
	require.Contains(t, run(0, fewer("up", "--remove-extra")).out, "deleted    RoleBinding default/quiesce-postgres-orders\n")
	require.NotContains(t, run(0, fewer("verify")).out, "extra")
	w.applyText("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: quiesce, finalizers: [quiesce.test/kept]}}") // the namespace stays
	require.Contains(t, run(0, []string{"install", "down", "-o", "json"}).out, `"result": "deleted"`)
	require.NotContains(t, run(0, []string{"install", "down"}).out, "deleted    Role")
	require.Contains(t, run(exitError, args("up")).progress, "\nthe namespace is still being removed: run it again in a minute\n")
}

func TestInstall_Render_NeedsNoCluster(t *testing.T) {
	got := quiescectl(t, nil, "install", "render", "--cnpg", "db/billing=billing-1")
	require.Zero(t, got.status, got.progress)
	require.Contains(t, got.out, "name: quiesce-postgres-billing")
	require.Contains(t, got.out, "# Evict them, within their PodDisruptionBudgets.")
}

func TestInstall_WrongUse_SaysWhatToDo(t *testing.T) {
	for says, args := range map[string][]string{
		"such as db/orders=orders-0,orders-1": {"render", "--patroni", "db/orders"},
		"--config: open missing.yaml":         {"render", "--config", "missing.yaml"},
		"aws eks update-kubeconfig":           {"up"},
		"cluster db/orders is named twice":    {"render", "--patroni", "db/orders=orders-0", "--cnpg", "db/orders=orders-1"},
	} {
		got := quiescectl(t, nil, append([]string{"install"}, args...)...)
		require.Equal(t, exitError, got.status)
		require.Contains(t, got.progress, says)
	}
	require.True(t, strings.HasPrefix(quiescectl(t, nil, "install").out, "install keeps what quiesce needs"))
}
