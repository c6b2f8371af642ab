package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	// finishedPodSize is about as much as etcd takes (https://etcd.io/docs/v3.6/dev-guide/limit/). These pods have failed, and stay.
	finishedPodSize = 1_250_000
	// annotatedPodSize is about as much as Kubernetes allows annotations to have
	// (https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/). These pods run.
	annotatedPodSize = 250_000
	// namedFinished is how many finished pods a report names.
	namedFinished = 20
	// stopInterval is how often pods are looked for that were told to stop: each look makes a busy API server read them all.
	stopInterval = time.Second
	// heapShare is the part of the function's memory, in percent, below which the garbage collector keeps it, about as in the stack.
	heapShare = 80
)

// largePods are the pods of a node, and the memory of the function that drains it.
type largePods struct {
	finished, annotated int
	memory              int64 // bytes
}

// largePodsOf returns 500 MB of pods for 256 MB, in the long form, and otherwise a third of both: half a gigabyte takes a busy etcd
// minutes.
func largePodsOf() largePods {
	if isLong() {
		return largePods{360, 200, 256 << 20}
	}
	return largePods{120, 60, 96 << 20}
}

// Tenants decide how large their pods are. A function that keeps them whole is killed until the deadline is over, and takes the other
// tenants' pods with it. It must work whichever way the API server lists. The test runs alone in its package.
func TestMemory_PodsLargerThanMemory_Drained(t *testing.T) {
	lab.Require(t)
	lab.RequireMemoryGroups(t)
	s := newFixtureOn(t, startOwnEnv(t), 1)
	ctx, cancel := context.WithTimeout(context.Background(), longTestTimeout)
	t.Cleanup(cancel)
	s.ctx = ctx
	target, large := s.instances[0], largePodsOf()
	s.each(large.finished, func(n int) error {
		name := fmt.Sprint("finished-", n)
		return s.persist(func() error { return s.createFinishedPod(name, target) })
	})
	for _, flag := range []string{"", "--feature-gates=WatchList=false"} {
		name := "streaming lists"
		if flag != "" {
			name = "lists"
			require.NoError(t, s.Lab.StopAPIServer(s.ctx))
			require.NoError(t, s.Lab.StartAPIServer(s.ctx, flag))
		}
		t.Run(name, func(t *testing.T) {
			s := &fixture{T: t, Env: s.Env, ctx: s.ctx, group: s.group}
			s.drainInLittleMemory(target, large)
		})
	}
}

// persist tries again what a busy etcd does not answer in time.
func (s *fixture) persist(try func() error) (err error) {
	for range 10 {
		if err = try(); err == nil || s.ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	return err
}

// createFinishedPod creates a large pod that has failed.
func (s *fixture) createFinishedPod(name string, i env.Instance) error {
	return s.createPodInPhase(name, i, corev1.PodFailed, withPayload(finishedPodSize))
}

// createPodInPhase creates a large pod without a simulated kubelet. After a restart of the API server, kwok lists all pods in one answer.
// With half a gigabyte of them that takes longer than a request may.
func (s *fixture) createPodInPhase(name string, i env.Instance, phase corev1.PodPhase, change func(*corev1.Pod)) error {
	template := s.template(name)
	template.Annotations = map[string]string{"lab/kubelet": "none"}
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name = name
	onNode(i)(&pod.Spec)
	change(pod)
	pods := s.Lab.Client().CoreV1().Pods(s.group)
	if _, err := pods.Create(s.ctx, pod, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	status := fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase)
	_, err := pods.Patch(s.ctx, name, types.MergePatchType, status, metav1.PatchOptions{}, "status")
	return err
}

// drainInLittleMemory adds pods to the node, and drains it by hand with a function that has less memory than they.
func (s *fixture) drainInLittleMemory(target env.Instance, large largePods) {
	s.Helper()
	s.each(large.annotated, func(n int) error {
		name := fmt.Sprint("web-", n)
		return s.persist(func() error { return s.createAnnotatedPod(name, target) })
	})
	stopping, stop := context.WithCancel(s.ctx)
	var stopper sync.WaitGroup
	stopper.Go(func() { s.stopPods(stopping, target) })
	s.Cleanup(func() { stop(); stopper.Wait() })
	f, err := s.FunctionWith(s.ctx, env.Settings{
		Configuration: "autoScalingGroups: [\"" + s.group + "\"]\nmode: drain\nallowManualDrain: true\n",
		Environment: []string{
			fmt.Sprint("AWS_LAMBDA_FUNCTION_MEMORY_SIZE=", large.memory>>20),
			fmt.Sprintf("GOMEMLIMIT=%dMiB", large.memory*heapShare/100>>20),
		},
		Memory: large.memory, Timeout: 5 * time.Minute,
	})
	require.NoError(s, err)
	s.Cleanup(func() {
		require.NoError(s, f.Close())
		if s.Failed() {
			s.Logf("the end of the function's log:\n%s", f.Output()[max(0, len(f.Output())-10_000):])
		}
	})
	began := time.Now()
	result := s.sendTo(f, fmt.Appendf(nil, `{"action":"drain","instanceId":%q}`, target.ID))
	kills, err := f.Memory.Killed()
	require.NoError(s, err)
	s.Logf("%v: %s, at most %d MiB resident, %d kills", time.Since(began), result.ErrorType, f.MaxRSS()>>20, kills)
	require.Zero(s, kills, "out of memory")
	require.Empty(s, result.ErrorType, result.ErrorMessage)
	s.requireSmallReport(result.Payload, large)
	s.requireInPhase(target, corev1.PodRunning, 0)
	s.requireInPhase(target, corev1.PodFailed, large.finished)
}

func (s *fixture) requireInPhase(i env.Instance, phase corev1.PodPhase, want int) {
	s.Helper()
	got := -1
	s.until("the pods are counted", func() (_ bool, err error) { // the API server is busy
		got, err = s.countInPhase(i, phase)
		return err == nil, err
	})
	require.Equal(s, want, got, phase)
}

func (s *fixture) countInPhase(i env.Instance, phase corev1.PodPhase) (int, error) {
	rows, err := s.podRows(s.ctx, i, phase)
	return len(rows), err
}

// podRow is what `kubectl get pods` shows of a pod.
type podRow struct{ name, status string }

// podRows lists the pods of an instance as rows of a table, which have neither the pods nor their annotations.
func (s *fixture) podRows(ctx context.Context, i env.Instance, phase corev1.PodPhase) (rows []podRow, err error) {
	raw, err := s.Lab.Client().CoreV1().RESTClient().Get().Namespace(s.group).Resource("pods").
		Param("fieldSelector", fmt.Sprintf("spec.nodeName=%s,status.phase=%s", i.Node, phase)).Param("includeObject", "None").
		SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil || table.Kind != "Table" {
		return nil, fmt.Errorf("the answer is a %q, not a table: %w", table.Kind, err)
	}
	column := func(name string) int {
		return slices.IndexFunc(table.ColumnDefinitions, func(c metav1.TableColumnDefinition) bool { return c.Name == name })
	}
	name, status := column("Name"), column("Status")
	for _, row := range table.Rows {
		rows = append(rows, podRow{fmt.Sprint(row.Cells[name]), fmt.Sprint(row.Cells[status])})
	}
	return rows, nil
}

// createAnnotatedPod creates a large pod that runs.
func (s *fixture) createAnnotatedPod(name string, i env.Instance) error {
	return s.createPodInPhase(name, i, corev1.PodRunning, func(pod *corev1.Pod) {
		pod.Annotations["tenant/text"] = strings.Repeat("x", annotatedPodSize)
	})
}

// stopPods does a kubelet's part for pods without one: it removes each that was told to stop, until ctx ends.
func (s *fixture) stopPods(ctx context.Context, i env.Instance) {
	at := time.NewTicker(stopInterval)
	defer at.Stop()
	for now := int64(0); ctx.Err() == nil; {
		rows, err := s.podRows(ctx, i, corev1.PodRunning)
		if err != nil && ctx.Err() == nil {
			s.Logf("look for pods that were told to stop: %v", err) // the API server is busy: again
		}
		for _, row := range rows {
			if row.status == "Terminating" {
				// A request that fails is repeated: the pod is still there at the next look.
				_ = s.Lab.Client().CoreV1().Pods(s.group).Delete(ctx, row.name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			}
		}
		select {
		case <-at.C:
		case <-ctx.Done():
		}
	}
}

// requireSmallReport requires that all running pods were evicted, and that the finished ones are counted, and only a few of them named.
func (s *fixture) requireSmallReport(payload []byte, large largePods) {
	s.Helper()
	var r struct {
		Status       string
		FinishedPods int
		Pods         []struct{ Name, Outcome string }
	}
	require.NoError(s, json.Unmarshal(payload, &r))
	require.Equal(s, "drained", r.Status)
	outcomes := map[string]int{}
	for _, p := range r.Pods {
		outcomes[p.Outcome]++
	}
	require.Equal(s, map[string]int{"evicted": large.annotated, "skipped": namedFinished}, outcomes)
	require.Equal(s, large.finished, r.FinishedPods)
}
