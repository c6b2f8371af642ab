package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

const (
	// blockedRecheck is the safety net under the watch: after it, a pod is asked for again though its budget showed no room.
	blockedRecheck = 9 * time.Second
	// neverRecheck is the same where no change of pods can make room: somebody has to change the budgets.
	neverRecheck = time.Minute
	// pdbLoadTimeout is how long a refusal waits for the budgets to be known, so that the question is not repeated without
	// that knowledge. They take milliseconds; more would hold up a drain for a server that does not say.
	pdbLoadTimeout = time.Second
)

// pdbs knows the disruption budgets of the namespaces in which an eviction was refused, and answers for the server where
// the server would only refuse again. Namespaces without a refusal cost nothing.
type pdbs struct {
	watchCtx context.Context // of the watches, which live as long as the drain's own
	client   *Client
	notify   func()

	mu          sync.Mutex
	loaded      map[string]chan struct{} // closed when their budgets are known, or cannot be
	known       map[types.NamespacedName]*pdb
	requestedAt map[drain.Ref]time.Time
}

// pdb is what is remembered of one PodDisruptionBudget.
type pdb struct {
	name        string // namespace/name
	selector    labels.Selector
	allowed     int    // disruptions allowed, less those taken since the status was seen
	neverReason string // why no change of pods makes room; empty: one can
}

func newPDBs(ctx context.Context, c *Client, announce func()) *pdbs {
	return &pdbs{
		watchCtx: ctx, client: c, notify: announce, loaded: map[string]chan struct{}{},
		known: map[types.NamespacedName]*pdb{}, requestedAt: map[drain.Ref]time.Time{},
	}
}

// reserve tells whether it is useless to ask the server to evict the pod now. If not, its place in its budgets is taken, unless
// the server is only to say what it would do.
// A pod that is not ready is always worth asking for: budgets may let it go whatever their room
// (https://kubernetes.io/docs/tasks/run-application/configure-pdb/#unhealthy-pod-eviction-policy).
func (b *pdbs) reserve(p drain.Pod, dryRun bool) *drain.Blocked {
	b.mu.Lock()
	defer b.mu.Unlock()
	matching := b.matching(p)
	blocked, recheck := expectedBlock(matching)
	if blocked != nil && time.Since(b.requestedAt[p.Ref]) < recheck {
		return blocked
	}
	if dryRun {
		return nil
	}
	b.requestedAt[p.Ref] = time.Now()
	for _, budget := range matching {
		budget.allowed--
	}
	return nil
}

func (b *pdbs) matching(p drain.Pod) []*pdb {
	var found []*pdb
	for name, budget := range b.known {
		if name.Namespace == p.Namespace && budget.selector.Matches(labels.Set(p.Labels)) {
			found = append(found, budget)
		}
	}
	slices.SortFunc(found, func(x, y *pdb) int { return cmp.Compare(x.name, y.name) })
	return found
}

// setPDBs tells the pods which budgets are known to select them. Most drains know of none.
func (b *pdbs) setPDBs(pods []drain.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.known) == 0 {
		return
	}
	for i := range pods {
		pods[i].PDBs = pdbNames(b.matching(pods[i]))
	}
}

// expectedBlock is what the server would say of a pod with these budgets, and how long to believe that without asking.
func expectedBlock(matching []*pdb) (*drain.Blocked, time.Duration) {
	if len(matching) > 1 {
		return &drain.Blocked{PDBs: pdbNames(matching), Reason: multiplePDBs}, neverRecheck
	}
	for _, budget := range matching {
		switch {
		case budget.neverReason != "":
			return &drain.Blocked{PDBs: []string{budget.name}, Reason: budget.neverReason}, neverRecheck
		case budget.allowed <= 0:
			return &drain.Blocked{PDBs: []string{budget.name}, Reason: "no disruption allowed"}, blockedRecheck
		}
	}
	return nil, 0
}

func pdbNames(budgets []*pdb) []string {
	all := make([]string, len(budgets))
	for i, b := range budgets {
		all[i] = b.name
	}
	return all
}

// explain puts a refusal of the server's in better words where nothing helps but a change of the budgets.
func (b *pdbs) explain(p drain.Pod, said *drain.Blocked) *drain.Blocked {
	b.mu.Lock()
	defer b.mu.Unlock()
	if blocked, recheck := expectedBlock(b.matching(p)); blocked != nil && recheck == neverRecheck {
		return blocked
	}
	return said
}

// awaitNamespace has the budgets of a namespace watched in which one refused an eviction, and returns when they are known.
func (b *pdbs) awaitNamespace(ctx context.Context, namespace string) {
	ctx, cancel := context.WithTimeout(ctx, pdbLoadTimeout)
	defer cancel()
	select {
	case <-b.watchNamespace(namespace):
	case <-ctx.Done():
	}
}

func (b *pdbs) watchNamespace(namespace string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if done, begun := b.loaded[namespace]; begun {
		return done
	}
	done := make(chan struct{})
	b.loaded[namespace] = done
	watching := source[*policyv1.PodDisruptionBudget]{
		client: b.client.policy, namespace: namespace, resource: "poddisruptionbudgets",
		list: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} }, sink: namespaceSink{b, namespace},
	}.start(b.watchCtx)
	go func() {
		defer close(done)
		_ = watching.wait(b.watchCtx) // without them the server is asked in their place, now and then
	}()
	return done
}

// namespaceSink is the sink of one namespace's budgets.
type namespaceSink struct {
	*pdbs
	namespace string
}

func (b namespaceSink) put(p *policyv1.PodDisruptionBudget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known[key(p)] = toPDB(p)
	b.notify()
}

func (b namespaceSink) drop(p *policyv1.PodDisruptionBudget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.known, key(p))
	b.notify()
}

func (b namespaceSink) replace(all []*policyv1.PodDisruptionBudget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.known {
		if name.Namespace == b.namespace {
			delete(b.known, name)
		}
	}
	for _, p := range all {
		b.known[key(p)] = toPDB(p)
	}
	b.notify()
}

func toPDB(p *policyv1.PodDisruptionBudget) *pdb {
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		selector = labels.Nothing() // the server cannot read it either, and ignores the budget
	}
	return &pdb{
		name: key(p).String(), selector: selector, allowed: int(p.Status.DisruptionsAllowed), neverReason: neverReason(p),
	}
}

// neverReason: a budget whose controller has seen its latest form, and that wants at least as many healthy pods as there are
// to be, allows none to go even when all are healthy.
func neverReason(p *policyv1.PodDisruptionBudget) string {
	s := p.Status
	if s.ObservedGeneration < p.Generation || s.ExpectedPods == 0 || s.DesiredHealthy < s.ExpectedPods {
		return ""
	}
	return fmt.Sprintf("can never allow a disruption: wants %d healthy pods of %d", s.DesiredHealthy, s.ExpectedPods)
}

// PDBs implements termination.Surroundings: for a plan, which asks once and watches nothing.
func (c *Client) PDBs(ctx context.Context, pods []drain.Pod) ([]drain.PDB, error) {
	found := []drain.PDB{}
	for namespace, members := range podsByNamespace(pods) {
		list := &policyv1.PodDisruptionBudgetList{}
		err := c.policy.Get().Namespace(namespace).Resource("poddisruptionbudgets").Timeout(callTimeout).Do(ctx).Into(list)
		if err != nil {
			return nil, fmt.Errorf("list disruption budgets of namespace %s: %w", namespace, err)
		}
		for i := range list.Items {
			if b := describePDB(&list.Items[i], members); len(b.Pods) > 0 {
				found = append(found, b)
			}
		}
	}
	slices.SortFunc(found, func(a, b drain.PDB) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

func podsByNamespace(pods []drain.Pod) map[string][]drain.Pod {
	members := map[string][]drain.Pod{}
	for _, p := range pods {
		members[p.Namespace] = append(members[p.Namespace], p)
	}
	return members
}

func describePDB(p *policyv1.PodDisruptionBudget, pods []drain.Pod) drain.PDB {
	budget, status := toPDB(p), p.Status
	described := drain.PDB{
		Name: budget.name, DisruptionsAllowed: int(status.DisruptionsAllowed), CurrentHealthy: int(status.CurrentHealthy),
		DesiredHealthy: int(status.DesiredHealthy), ExpectedPods: int(status.ExpectedPods), NeverReason: budget.neverReason,
	}
	for _, pod := range pods {
		if budget.selector.Matches(labels.Set(pod.Labels)) {
			described.Pods = append(described.Pods, pod.String())
		}
	}
	slices.Sort(described.Pods)
	return described
}
