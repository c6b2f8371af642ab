package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/kube"
	"quiesce/internal/termination"
)

// watching is a started watch.
type watching struct {
	*testing.T
	command *exec.Cmd
	lines   *bufio.Scanner
}

func (w *world) watch(args ...string) *watching {
	w.Helper()
	command := exec.CommandContext(w.Context(), binary, append([]string{"watch", "--interval", "100ms"}, args...)...)
	command.Env = w.env
	out, err := command.StdoutPipe()
	require.NoError(w, err)
	require.NoError(w, command.Start())
	return &watching{w.T, command, bufio.NewScanner(out)}
}

// await reads lines until one has all these words.
func (w *watching) await(words ...string) {
	w.Helper()
	var seen []string
	for w.lines.Scan() {
		seen = append(seen, w.lines.Text())
		if strings.Join(strings.Fields(w.lines.Text()), " ") == strings.Join(words, " ") {
			return
		}
	}
	require.Fail(w, "watch ended without the line", "%v\nit printed:\n%s", words, strings.Join(seen, "\n"))
}

// An invocation takes the Lease before it closes the node. Then it is not done.
func TestStarting_HeldLeaseOfAnInstance_IsNotDone(t *testing.T) {
	closed := []termination.ClosedNode{{Name: "node-a1"}}
	for _, c := range []struct {
		lease termination.LeaseInfo
		want  bool
	}{
		{termination.LeaseInfo{Name: "i-1", Held: true}, true},
		{termination.LeaseInfo{Name: "i-1"}, false},
		{termination.LeaseInfo{Name: "i-1", Held: true, Closed: closed}, false},
		{termination.LeaseInfo{Name: "quiesce-postgres-0123abcd", Held: true}, false},
	} {
		_, is := starting(c.lease)
		require.Equal(t, c.want, is, "%v", c.lease)
	}
	d, _ := starting(termination.LeaseInfo{Name: "i-1", Held: true})
	require.False(t, areDone([]running{d}))
	require.True(t, areDone([]running{{State: stateEmpty}}))
	var b strings.Builder
	showDrains(&b, []running{d})
	require.Contains(t, b.String(), "<none>   i-1        <none>   starting")
}

// No event continues a drain that a person has asked for without a hook. A script that waited for it would wait without end.
func TestStateOf_DrainByHandThatEnded_IsDone(t *testing.T) {
	hooked, byHand := termination.ClosedNode{Hook: "quiesce"}, termination.ClosedNode{}
	spot := termination.ClosedNode{Trigger: termination.SpotInterruption}
	for _, c := range []struct {
		held   bool
		remain int
		node   termination.ClosedNode
		want   string
		done   bool
	}{
		{true, 2, byHand, stateDraining, false},
		{true, 0, hooked, stateDraining, false},
		{false, 0, hooked, stateEmpty, true},
		{false, 0, byHand, stateEmpty, true},
		{false, 2, byHand, stateEnded, true},
		{false, 2, hooked, stateBetween, false},
		{false, 2, spot, stateBetween, false},
	} {
		got := stateOf(c.held, c.remain, c.node)
		require.Equal(t, c.want, got, "%+v", c)
		require.Equal(t, c.done, areDone([]running{{State: got}}), "%+v", c)
		require.Equal(t, got == stateEnded, errors.Is(checkRemaining([]running{{State: stateEmpty}, {State: got}}), errFindings))
	}
}

// writerFunc is a function that writes.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A script that goes on after an interrupted watch would not wait for the drains.
func TestWatch_Interrupted_IsNoEndOfTheDrains(t *testing.T) {
	const held = `{"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1", "items": [{"metadata": {"name": "i-1"}, "spec": ` +
		`{"holderIdentity": "f", "leaseDurationSeconds": 3600, "renewTime": "%s"}}]}`
	for _, c := range []struct {
		args   []string
		looks  bool // it is interrupted while it looks, and not while it waits for the next look
		status int
		says   string
	}{
		{nil, true, 0, ""},
		{nil, false, 0, ""},
		{[]string{"--until-done"}, true, exitError, "error: ended before all drains had ended\n"},
		{[]string{"--until-done"}, false, exitError, "error: ended before all drains had ended\n"},
		{[]string{"--timeout", "1ms"}, true, 0, ""},
		{[]string{"--timeout", "1ms", "--until-done"}, true, exitError, "error: ended before all drains had ended\n"},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if c.looks {
				interrupt()
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, held, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))
		}))
		t.Cleanup(server.Close)
		shown := writerFunc(func(b []byte) (int, error) {
			interrupt()
			return len(b), nil
		})
		var progress bytes.Buffer
		got := run(ctx, append([]string{"watch", "--interval", "1h", "--kubeconfig", kubeconfigOf(t, server.URL)}, c.args...), shown, &progress)
		require.Equal(t, c.status, got, "%v", c)
		require.Equal(t, c.says, progress.String(), "%v", c)
	}
}

func TestWatch_Drain_ShowsEachStepUntilItIsDone(t *testing.T) {
	w := newWorld(t)
	w.apply("../rbac.yaml")
	w.addNode("", node("node-a1", "eu-west-1a"))
	w.apply("testdata/drain.yaml")
	pods := w.lab.Client().CoreV1().Pods("shop")
	require.Eventually(t, func() bool {
		pod, err := pods.Get(t.Context(), "daemon", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == "Running"
	}, settleTimeout, 50*time.Millisecond)

	idle := w.watch("--until-done")
	idle.await("no node drains")
	require.NoError(t, idle.command.Wait())

	client, err := kube.New(w.lab.Admin())
	require.NoError(t, err)
	id := node("node-a1", "").InstanceID
	lease, err := client.AcquireLease(t.Context(), id, termination.Acquisition{})
	require.NoError(t, err)
	early := w.watch("--until-done")
	early.await("<none>", id, "<none>", "starting", "0", "0", "0", "<none>")
	require.NoError(t, early.command.Process.Kill())
	_ = early.command.Wait() // it was killed
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	require.NoError(t, lease.SetClosed(t.Context(), termination.ClosedNode{Name: "node-a1", UID: "u", Hook: "quiesce", Began: began, CordonedAt: began}))

	watch := w.watch("--until-done")
	watch.await("node-a1", id, "2026-03-01T12:00:00Z", "draining", "1", "0", "1", "shop/web")
	require.NoError(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	watch.await("node-a1", id, "2026-03-01T12:00:00Z", "draining", "0", "1", "1", "shop/web")
	require.NoError(t, lease.Release(termination.KeepClosed))
	watch.await("node-a1", id, "2026-03-01T12:00:00Z", "between", "0", "1", "1", "shop/web")
	require.NoError(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	watch.await("node-a1", id, "2026-03-01T12:00:00Z", "empty", "0", "0", "1", "<none>")
	require.NoError(t, watch.command.Wait(), "it ends by itself")

	asJSON := quiescectl(t, w.env, "watch", "--until-done", "-o", "json")
	require.Contains(t, asJSON.out, `"state": "empty"`)
}
