package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// A person's plan without a function is the function's, and reads only.
func TestPlanLocal_SameNode_IsThePlanOfTheFunction(t *testing.T) {
	lab.Require(t)
	e, err := env.Start(t.Context(), env.Options{Root: "../.."})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Stop()) })
	nodes, err := e.Group(t.Context(), "workers-a", 2)
	require.NoError(t, err)
	const settings = "autoScalingGroups: [workers-a]\nmode: drain\ndrain: {maxDuration: 10m}\nphases: [{name: poolers, escort: {pgbouncer: {}}}, {name: workloads}]\n"
	function, err := e.Function(t.Context(), settings)
	require.NoError(t, err)
	t.Cleanup(func() { _ = function.Close() })
	e.AWS.AddFunction("quiesce-lab", func(ctx context.Context, payload []byte) ([]byte, string, error) {
		result, err := function.Invoke(ctx, payload)
		return result.Payload, result.ErrorType, err
	})
	w := &world{T: t, lab: e.Lab, aws: e.AWS, env: append(e.AWS.Environment(e.AWS.Session("person")), "KUBECONFIG="+e.Lab.Kubeconfig())}
	w.apply("testdata/healthy.yaml")
	file := filepath.Join(t.TempDir(), "quiesce.yaml")
	require.NoError(t, os.WriteFile(file, []byte("cluster: lab\n"+settings), 0o600))

	for _, deployment := range []string{"db/pgbouncer", "shop/web"} {
		namespace, name, _ := strings.Cut(deployment, "/")
		_, err := e.Lab.Kubectl(t.Context(), "rollout", "status", "-n", namespace, "deployment/"+name, "--timeout", settleTimeout.String())
		require.NoError(t, err)
	}
	plan := func(args ...string) termination.Report {
		got := quiescectl(t, w.env, append([]string{"plan", "--cluster", "lab", "-o", "json"}, args...)...)
		require.Zero(t, got.status, got.progress)
		require.Empty(t, got.progress)
		var report termination.Report
		require.NoError(t, json.Unmarshal([]byte(got.out), &report))
		require.NotZero(t, report.StartedAt)
		require.NotZero(t, report.Deadline)
		report.StartedAt, report.FinishedAt, report.Deadline, report.Version, report.Commit = time.Time{}, time.Time{}, time.Time{}, "", ""
		return report
	}
	for _, name := range []string{nodes[0].Node, nodes[0].ID} {
		asked := plan(name)
		require.NotEmpty(t, asked.Pods)
		require.Equal(t, "workers-a", asked.Group)
		require.Equal(t, asked, plan(name, "--local", "--config", file))
		require.NotEqual(t, asked.Plan, plan(name, "--local").Plan, "the defaults allow more time than this file")
	}
	requests, err := e.Lab.Audit().Of(func(string) bool { return true })
	require.NoError(t, err)
	requests = slices.DeleteFunc(requests, func(r lab.Request) bool { return !strings.HasPrefix(r.UserAgent, "quiescectl/") })
	require.NotEmpty(t, requests)
	for _, r := range requests {
		require.Contains(t, []string{"get", "list", "watch"}, r.Verb, r.URI)
	}
	t.Run("no function", func(t *testing.T) {
		got := quiescectl(t, w.env, "plan", nodes[0].Node, "--cluster", "other")
		require.Equal(t, exitError, got.status)
		require.Contains(t, got.progress, "there is no function quiesce-other:live in eu-west-1: name it with --function, or the region with --region, or deploy it (infra/README.md)\nor plan without a function: --local\n")
	})
	t.Run("no such node", func(t *testing.T) {
		for _, more := range [][]string{nil, {"--local"}} {
			got := quiescectl(t, w.env, append([]string{"plan", "node-none", "--cluster", "lab"}, more...)...)
			require.Equal(t, exitFindings, got.status)
			require.Contains(t, got.out, "there is no such node in the cluster\n")
			require.Equal(t, "list nodes: kubectl get nodes\n", got.progress)
		}
	})
	t.Run("an instance of another account", func(t *testing.T) {
		require.NoError(t, e.Lab.AddNodes(t.Context(), node("node-far", "eu-west-1a")))
		got := quiescectl(t, w.env, "plan", "node-far", "--local")
		require.Zero(t, got.status, got.progress)
		require.Equal(t, "warning: no Auto Scaling group of this account and region has i-nodefar: check --profile and --region\n", got.progress)
	})
	t.Run("errors name the next step", func(t *testing.T) {
		noAWS := append(slices.Clone(w.env), "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SESSION_TOKEN=")
		nobody := append(slices.Clone(w.env), "KUBECONFIG="+impersonating(t, e.Lab.Kubeconfig(), "nobody"))
		for _, c := range []struct {
			env  []string
			args string
			says string
		}{
			{noAWS, "--local", "\nlog in (aws sso login)"},
			{nobody, "--local", "you need permission in the cluster to read nodes, pods"},
			{nil, "--local", "read the kubeconfig"},
			{w.env, "--config x", "--config and --connect-via need --local"},
			{w.env, "--local --config missing.yaml", "--config: open missing.yaml"},
			{w.env, "--local --connect-via x", "--connect-via must be one of portForward, podIP"},
		} {
			got := quiescectl(t, c.env, append([]string{"plan", nodes[0].Node, "--cluster", "lab"}, strings.Fields(c.args)...)...)
			require.Equal(t, exitError, got.status, c.args)
			require.Contains(t, got.progress, c.says, c.args)
		}
	})
}
