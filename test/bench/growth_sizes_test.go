package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"quiesce/events"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	// creations is how many objects are created at once: enough to keep two cores busy.
	creations = 32
	// groupAge is the age of groups that are no longer new to a sweep.
	groupAge = time.Hour
	// shortStop is how long pods take to stop that leave one after the other.
	shortStop = "200ms"
)

// growth is one axis's lab while its size grows.
type growth struct {
	*env.Env
	tb     testing.TB // of the axis or the point that is measured
	serial int        // of fixtures
	groups []string   // without nodes, one instance in each
	ids    []string   // of these instances
}

// fixture makes a target and a node for its pods.
func (g *growth) fixture(b *testing.B) *fixture {
	g.serial++
	return newEmptyFixture(b, g.Env, fmt.Sprintf("growth-%d", g.serial))
}

func (g *growth) drainPods(b *testing.B, n int) cost { return g.drain(g.fixture(b), n) }

func (g *growth) drainFewPods(b *testing.B, _ int) cost { return g.drain(g.fixture(b), fewPods) }

// drain measures the drain of so many pods, and removes what it leaves.
func (g *growth) drain(a *fixture, pods int) cost {
	a.fillTarget(int32(pods))
	return g.drainFilled(a)
}

func (g *growth) drainFilled(a *fixture) cost {
	a.quiesce()
	require.Contains(a, string(a.last.answer), `"status":"drained"`)
	require.Len(a, a.AWS.Completions(a.target.ID), 1)
	a.clear()
	for _, i := range []env.Instance{a.target, a.refuge} {
		require.NoError(a, a.Lab.RemoveNode(a.ctx, i.Node))
	}
	return a.last
}

// addNodes adds nodes that only are there. A drain has two of its own.
func (g *growth) addNodes(from, to int) {
	var nodes []lab.Node
	for n := max(from, 2); n < to; n++ {
		nodes = append(nodes, lab.Node{
			Name: fmt.Sprintf("ip-10-1-%d-%d.%s.compute.internal", n/250, n%250, awstest.Region), InstanceID: fmt.Sprintf("i-%017x", 1<<40+n),
			Zone: awstest.Region + string("ab"[n%2]), IP: fmt.Sprintf("10.1.%d.%d", n/250, n%250), Background: true,
		})
	}
	require.NoError(g.tb, g.Lab.AddNodes(context.Background(), nodes...))
}

// drainRenamed measures the drain of a node that has another name than EC2 says, so that all nodes are searched.
func (g *growth) drainRenamed(b *testing.B, _ int) cost {
	a := g.fixture(b)
	require.NoError(b, a.Lab.RemoveNode(a.ctx, a.target.Node))
	a.target = env.Instance{ID: fmt.Sprintf("i-%017x", 1<<41+g.serial), Node: "zz-" + a.name, Zone: a.target.Zone}
	a.AWS.AddInstance(a.name, awstest.Instance{ID: a.target.ID, Zone: a.target.Zone, PrivateDNS: "of-ec2-" + a.name})
	require.NoError(b, a.Lab.AddNodes(a.ctx, lab.Node{
		Name: a.target.Node, InstanceID: a.target.ID, Zone: a.target.Zone, Labels: map[string]string{"group": a.name},
	}))
	return g.drain(a, fewPods)
}

// drainAllowed measures a drain whose pods have a PDB that allows all evictions, if there is any.
func (g *growth) drainAllowed(b *testing.B, n int) cost {
	a := g.fixture(b)
	a.fillTarget(fewPods)
	a.createPDBs(n, func(i int) (app string, available intstr.IntOrString) {
		if i == 0 {
			return "web", intstr.FromInt32(0)
		}
		return "other", intstr.FromInt32(0)
	})
	return g.drainFilled(a)
}

// drainOneByOne measures a drain whose pods have a PDB that allows one eviction at a time. The other PDBs are of other pods.
func (g *growth) drainOneByOne(b *testing.B, n int) cost {
	a := g.fixture(b)
	a.stopping = shortStop
	a.fillTarget(fewPods)
	a.createPDBs(n+1, func(i int) (app string, available intstr.IntOrString) {
		if i == 0 {
			return "web", intstr.FromInt32(fewPods - 1)
		}
		return "other", intstr.FromInt32(0)
	})
	return g.drainFilled(a)
}

// createPDBs creates so many PDBs and waits until the controller has counted their pods. The function says which pods the i-th is of, and
// how many of them must be there.
func (a *fixture) createPDBs(n int, of func(i int) (app string, available intstr.IntOrString)) {
	pdbs := a.Lab.Client().PolicyV1().PodDisruptionBudgets(a.name)
	require.NoError(a, inParallel(n, func(i int) error {
		app, available := of(i)
		_, err := pdbs.Create(a.ctx, &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pdb-", i)},
			Spec: policyv1.PodDisruptionBudgetSpec{
				MinAvailable: &available, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			},
		}, metav1.CreateOptions{})
		return err
	}))
	a.until(func() bool {
		all, err := pdbs.List(a.ctx, metav1.ListOptions{})
		require.NoError(a, err)
		return !slices.ContainsFunc(all.Items, func(b policyv1.PodDisruptionBudget) bool {
			return b.Status.ObservedGeneration == 0 || b.Spec.Selector.MatchLabels["app"] != "other" && b.Status.CurrentHealthy == 0
		})
	})
}

// drainGuarded measures a drain whose pods have a PDB each. One of them allows no eviction until half of the pods are gone, so that all are
// read and compared with all pods.
func (g *growth) drainGuarded(b *testing.B, n int) cost {
	a := g.fixture(b)
	pods := a.Lab.Client().CoreV1().Pods(a.name)
	a.createNamespace()
	require.NoError(b, inParallel(n, func(i int) error {
		_, err := pods.Create(a.ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprint("web-", i), Labels: map[string]string{"app": fmt.Sprint("web-", i)}, Annotations: map[string]string{lab.StopAfter: stopping},
			},
			Spec: corev1.PodSpec{NodeName: a.target.Node, Containers: []corev1.Container{{Name: "main", Image: "none"}}},
		}, metav1.CreateOptions{})
		return err
	}))
	a.until(func() bool {
		all, err := pods.List(a.ctx, metav1.ListOptions{})
		require.NoError(b, err)
		return !slices.ContainsFunc(all.Items, func(p corev1.Pod) bool { return !isReady(&p) })
	})
	a.createPDBs(n, func(i int) (app string, available intstr.IntOrString) {
		if i == 0 {
			return "web-0", intstr.FromInt32(1)
		}
		return fmt.Sprint("web-", i), intstr.FromInt32(0)
	})
	go a.allowAfter(n/2, "pdb-0")
	return g.drainFilled(a)
}

// allowAfter makes a PDB allow evictions once so many pods are gone.
func (a *fixture) allowAfter(gone int, pdb string) {
	watching, err := a.Lab.Client().CoreV1().Pods(a.name).Watch(a.ctx, metav1.ListOptions{})
	if err != nil {
		a.Error(err)
		return
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		if event.Type != watch.Deleted {
			continue
		}
		if gone--; gone == 0 {
			break
		}
	}
	_, err = a.Lab.Client().PolicyV1().PodDisruptionBudgets(a.name).Patch(
		a.ctx, pdb, types.MergePatchType, []byte(`{"spec":{"minAvailable":0}}`), metav1.PatchOptions{})
	if err != nil {
		a.Error(err)
	}
}

// inParallel calls do for 0 to n-1, several at once.
func inParallel(n int, do func(i int) error) error {
	slots, failed := make(chan struct{}, creations), make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		group.Go(func() { defer func() { <-slots }(); failed[i] = do(i) })
	}
	group.Wait()
	return errors.Join(failed...)
}

// addGroups adds groups with one instance each. No node is theirs.
func (g *growth) addGroups(from, to int) {
	for n := from; n < to; n++ {
		name, id := fmt.Sprintf("workers-%d", n), fmt.Sprintf("i-%017x", 1<<42+n)
		g.AWS.AddGroup(name, awstest.Hook{Name: env.Hook})
		g.AWS.BackdateGroup(name, groupAge)
		g.AWS.AddInstance(name, awstest.Instance{ID: id, Zone: awstest.Region + "a", PrivateDNS: "none-" + id})
		g.groups, g.ids = append(g.groups, name), append(g.ids, id)
	}
}

func configurationOf(groups ...string) string {
	return "mode: drain\nautoScalingGroups:\n  - " + strings.Join(groups, "\n  - ") + "\n"
}

// drainOfGroups measures a drain in one of n groups.
func (g *growth) drainOfGroups(b *testing.B, n int) cost {
	a := g.fixture(b)
	a.configuration = configurationOf(append([]string{a.name}, g.groups[1:n]...)...)
	return g.drain(a, fewPods)
}

// sweepQuiet measures the second sweep by a function: in the first it connects.
func (g *growth) sweepQuiet(b *testing.B, n int) cost {
	ctx, cancel := context.WithTimeout(b.Context(), fixtureTimeout)
	defer cancel()
	a := &fixture{B: b, Env: g.Env, ctx: ctx}
	g.serial++
	function, err := g.Function(ctx, configurationOf(g.groups[:n]...), g.Queue(fmt.Sprintf("growth-%d", g.serial)).Environment()...)
	require.NoError(b, err)
	defer function.Close()
	sweep, err := events.FS.ReadFile("sweep.json")
	require.NoError(b, err)
	payload := func() []byte { return sweep }
	a.costOf(function, payload)
	return a.costOf(function, payload)
}

// sweepWaiting measures a sweep while an instance waits in each group, undrained.
func (g *growth) sweepWaiting(b *testing.B, n int) cost {
	for _, id := range g.ids {
		g.AWS.Terminate(id)
	}
	defer func() {
		for _, id := range g.ids {
			g.AWS.SetState(id, "InService")
		}
	}()
	return g.sweepQuiet(b, n)
}
