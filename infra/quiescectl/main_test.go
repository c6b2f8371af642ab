package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

// settleTimeout bounds how long controllers may take until the cluster is as its manifests say.
const settleTimeout = 25 * time.Second

// binary is the built command.
var binary string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "quiescectl")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(folder, "quiescectl")
	status := 1
	if output, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build quiescectl: %v\n%s", err, output)
	} else {
		status = m.Run()
	}
	_ = os.RemoveAll(folder)
	os.Exit(status)
}

// ended is how a command ended.
type ended struct {
	out, progress string
	status        int
}

// quiescectl runs the built command with only these variables.
func quiescectl(t *testing.T, env []string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	command.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	var out, progress bytes.Buffer
	command.Stdout, command.Stderr = &out, &progress
	err := command.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return ended{out.String(), progress.String(), command.ProcessState.ExitCode()}
}

// world is a cluster and an account.
type world struct {
	*testing.T
	lab *lab.Lab
	aws *awstest.Server
	env []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	lab.Require(t)
	l, err := lab.Start(t.Context(), lab.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	server, err := awstest.Start()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	return &world{t, l, server, append(server.Environment(server.Session("person")), "KUBECONFIG="+l.Kubeconfig())}
}

func (w *world) apply(file string) {
	w.Helper()
	require.NoError(w, w.lab.Apply(w.Context(), file))
}

// addNode adds a node, and its instance to the group; empty: to none.
func (w *world) addNode(group string, n lab.Node) {
	w.Helper()
	if group != "" {
		w.aws.AddInstance(group, awstest.Instance{ID: n.InstanceID, Zone: n.Zone, PrivateDNS: n.Name})
	}
	require.NoError(w, w.lab.AddNodes(w.Context(), n))
}

// golden runs the command until it prints the file, and compares what it printed last.
func (w *world) golden(file string, args ...string) ended {
	w.Helper()
	path := filepath.Join("testdata", file)
	want, err := os.ReadFile(path)
	if os.Getenv("UPDATE") == "" {
		require.NoError(w, err)
	}
	var got ended
	for deadline := time.Now().Add(settleTimeout); ; {
		got = quiescectl(w.T, w.env, args...)
		if got.out == string(want) || time.Now().After(deadline) {
			break
		}
	}
	if os.Getenv("UPDATE") != "" {
		require.NoError(w, os.WriteFile(path, []byte(got.out), 0o600))
	}
	require.Equal(w, string(want), got.out, got.progress)
	return got
}

var quiesceHook = awstest.Hook{Name: "quiesce", HeartbeatTimeout: 20 * time.Minute, DefaultResult: awstest.Continue}

func node(name, zone string) lab.Node {
	return lab.Node{Name: name, InstanceID: "i-" + strings.ReplaceAll(name, "-", ""), Zone: zone}
}

func TestDoctor_HealthyCluster_FindsNothing(t *testing.T) {
	w := newWorld(t)
	w.apply("../rbac.yaml")
	for _, zone := range []string{"a", "b"} {
		group := "workers-" + zone
		w.aws.AddGroup(group, quiesceHook)
		w.aws.SetGroup(group, awstest.GroupSettings{MinHealthy: 100})
		for _, n := range []string{"1", "2"} {
			w.addNode(group, node("node-"+zone+n, "eu-west-1"+zone))
		}
	}
	w.aws.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	queue, dlq := w.aws.AddQueue(awstest.Queue{Name: "events"}), w.aws.AddQueue(awstest.Queue{Name: "dlq"})
	w.aws.SetEnvironment("quiesce-prod", map[string]string{queueVariable: queue, dlqVariable: dlq})
	w.apply("testdata/healthy.yaml")

	got := w.golden("healthy.txt", "doctor", "--cluster", "prod")
	require.Zero(t, got.status)
	require.Empty(t, got.progress, "progress is for terminals")
}

// faulty returns a cluster and an account that have each fault once.
func faulty(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.aws.AddGroup("workers-a")
	w.aws.AddGroup("workers-b", awstest.Hook{Name: "quiesce", HeartbeatTimeout: 5 * time.Minute, DefaultResult: awstest.Continue}, awstest.Hook{Name: "legacy"})
	w.aws.SetGroup("workers-b", awstest.GroupSettings{Suspended: []string{"Launch"}, MinHealthy: 90})
	w.aws.TagGroup("workers-b", map[string]string{"k8s.io/cluster-autoscaler/enabled": "true"})
	w.aws.AddGroup("workers-c", awstest.Hook{Name: "Terminate-LC-Hook"})
	w.aws.AddGroup("removed")
	for _, n := range []string{"a1", "b1", "a2", "b2"} {
		group := map[byte]string{'1': "workers-a", '2': "workers-b"}[n[1]]
		w.addNode(group, node("node-"+n, "eu-west-1"+n[:1]))
	}
	shared, old := node("node-c1", "eu-west-1c"), node("node-old", "eu-west-1a")
	shared.Labels = map[string]string{"karpenter.sh/nodepool": "default"}
	old.Labels = map[string]string{"eks.amazonaws.com/nodegroup": "workers-2023"}
	w.addNode("workers-c", shared)
	w.addNode("removed", old)
	w.addNode("removed", node("node-loose", "eu-west-1a"))
	w.aws.DeleteGroup("removed")
	twin := node("node-twin", "eu-west-1a")
	twin.InstanceID = node("node-a1", "").InstanceID
	w.addNode("", twin)

	w.apply("testdata/faulty.yaml")
	_, err := w.lab.Kubectl(t.Context(), "label", "node", "node-b2", "node.kubernetes.io/exclude-from-external-load-balancers=quiesce")
	require.NoError(t, err)
	w.aws.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	dlq := w.aws.AddQueue(awstest.Queue{Name: "dlq"})
	w.aws.SetEnvironment("quiesce-prod", map[string]string{dlqVariable: dlq})
	w.aws.SendMessage(dlq, "{}")
	return w
}

func TestDoctor_FaultyCluster_FindsEachFault(t *testing.T) {
	w := faulty(t)
	got := w.golden("faulty.txt", "doctor", "--cluster", "prod")
	require.Equal(t, exitFindings, got.status)
}
