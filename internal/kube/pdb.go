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
	// blockedRecheck is the safety net below the watch. After it, an eviction is requested again although the PDB allows none.
	blockedRecheck = 9 * time.Second
	// neverRecheck is the same for a PDB that no change of pods can satisfy: a person must change the PDB.
	neverRecheck = time.Minute
	// pdbLoadTimeout bounds the wait for a namespace's PDBs after a refusal. Without them, the same request would be repeated
	// in vain. They take milliseconds. A longer wait would delay the drain if the server does not answer.
	pdbLoadTimeout = time.Second
)

// pdbs watches the PDBs of each namespace in which a PDB blocked an eviction. It spares the server the requests that it would
// refuse again. A namespace without a refusal costs nothing.
type pdbs struct {
	watchCtx context.Context // of the watches, which last as long as the drain's own
	client   *Client
	notify   func()

	mu          sync.Mutex
	loaded      map[string]chan struct{} // by namespace; closed when its PDBs are known, or cannot be read
	known       map[types.NamespacedName]*pdb
	requestedAt map[drain.Ref]time.Time // of the last eviction request
}

// pdb is the part of a PodDisruptionBudget that decides an eviction.
type pdb struct {
	name        string // namespace/name
	selector    labels.Selector
	allowed     int    // disruptions allowed, minus evictions requested since that status
	neverReason string // why no change of pods allows a disruption; empty: a change can
}

func newPDBs(ctx context.Context, c *Client, notify func()) *pdbs {
	return &pdbs{
		watchCtx: ctx, client: c, notify: notify, loaded: map[string]chan struct{}{},
		known: map[types.NamespacedName]*pdb{}, requestedAt: map[drain.Ref]time.Time{},
	}
}

// reserve returns the reason if the server would refuse to evict the pod now. Otherwise it returns nil and counts the eviction
// against the pod's PDBs; a dry run is not counted.
// Each pod is requested once, whatever its PDBs allow: a PDB may let an unhealthy pod go even if it allows no disruption
// (https://kubernetes.io/docs/tasks/run-application/configure-pdb/#unhealthy-pod-eviction-policy).
func (d *pdbs) reserve(p drain.Pod, dryRun bool) *drain.Blocked {
	d.mu.Lock()
	defer d.mu.Unlock()
	matching := d.matching(p)
	blocked, recheck := expectedBlock(matching)
	if blocked != nil && time.Since(d.requestedAt[p.Ref]) < recheck {
		return blocked
	}
	if dryRun {
		return nil
	}
	d.requestedAt[p.Ref] = time.Now()
	for _, pdb := range matching {
		pdb.allowed--
	}
	return nil
}

func (d *pdbs) matching(p drain.Pod) []*pdb {
	var found []*pdb
	for name, pdb := range d.known {
		if name.Namespace == p.Namespace && pdb.selector.Matches(labels.Set(p.Labels)) {
			found = append(found, pdb)
		}
	}
	slices.SortFunc(found, func(x, y *pdb) int { return cmp.Compare(x.name, y.name) })
	return found
}

// setPDBs sets the field PDBs of each pod to the known PDBs that select it. Most drains know none.
func (d *pdbs) setPDBs(pods []drain.Pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) == 0 {
		return
	}
	for i := range pods {
		pods[i].PDBs = pdbNames(d.matching(pods[i]))
	}
}

// expectedBlock returns what the server would answer for a pod with these PDBs, and how long to believe that without a request.
func expectedBlock(matching []*pdb) (*drain.Blocked, time.Duration) {
	if len(matching) > 1 {
		return &drain.Blocked{PDBs: pdbNames(matching), Reason: multiplePDBs}, neverRecheck
	}
	for _, pdb := range matching {
		switch {
		case pdb.neverReason != "":
			return &drain.Blocked{PDBs: []string{pdb.name}, Reason: pdb.neverReason}, neverRecheck
		case pdb.allowed <= 0:
			return &drain.Blocked{PDBs: []string{pdb.name}, Reason: "no disruption allowed"}, blockedRecheck
		}
	}
	return nil, 0
}

func pdbNames(pdbs []*pdb) []string {
	all := make([]string, len(pdbs))
	for i, pdb := range pdbs {
		all[i] = pdb.name
	}
	return all
}

// explain replaces the server's refusal with a clearer one if only a change of the PDBs can help.
func (d *pdbs) explain(p drain.Pod, refusal *drain.Blocked) *drain.Blocked {
	d.mu.Lock()
	defer d.mu.Unlock()
	if blocked, recheck := expectedBlock(d.matching(p)); blocked != nil && recheck == neverRecheck {
		return blocked
	}
	return refusal
}

// awaitNamespace watches the PDBs of a namespace in which one blocked an eviction. It returns when they are known, or after
// pdbLoadTimeout.
func (d *pdbs) awaitNamespace(ctx context.Context, namespace string) {
	ctx, cancel := context.WithTimeout(ctx, pdbLoadTimeout)
	defer cancel()
	select {
	case <-d.watchNamespace(namespace):
	case <-ctx.Done():
	}
}

// watchNamespace starts the watch of a namespace's PDBs once. The channel is closed when they are known or cannot be read.
func (d *pdbs) watchNamespace(namespace string) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if done, started := d.loaded[namespace]; started {
		return done
	}
	done := make(chan struct{})
	d.loaded[namespace] = done
	watch := source[*policyv1.PodDisruptionBudget]{
		client: d.client.policy, namespace: namespace, resource: "poddisruptionbudgets",
		list: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} }, sink: namespaceSink{d, namespace},
	}.start(d.watchCtx)
	go func() {
		defer close(done)
		_ = watch.wait(d.watchCtx) // without PDBs, evictions are requested again as the drain's own retries come
	}()
	return done
}

// namespaceSink is the sink of one namespace's PDBs.
type namespaceSink struct {
	*pdbs
	namespace string
}

func (s namespaceSink) put(p *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[key(p)] = toPDB(p)
	s.notify()
}

func (s namespaceSink) drop(p *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, key(p))
	s.notify()
}

func (s namespaceSink) replace(all []*policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.known {
		if name.Namespace == s.namespace {
			delete(s.known, name)
		}
	}
	for _, p := range all {
		s.known[key(p)] = toPDB(p)
	}
	s.notify()
}

func toPDB(p *policyv1.PodDisruptionBudget) *pdb {
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		selector = labels.Nothing() // the server cannot parse it either, and ignores the PDB
	}
	return &pdb{
		name: key(p).String(), selector: selector, allowed: int(p.Status.DisruptionsAllowed), neverReason: neverReason(p),
	}
}

// neverReason returns why the PDB can never allow a disruption; empty: it can. A PDB never allows one if it requires at
// least as many healthy pods as are expected. The status must be of the latest generation.
func neverReason(p *policyv1.PodDisruptionBudget) string {
	s := p.Status
	if s.ObservedGeneration < p.Generation || s.ExpectedPods == 0 || s.DesiredHealthy < s.ExpectedPods {
		return ""
	}
	return fmt.Sprintf("can never allow a disruption: wants %d healthy pods of %d", s.DesiredHealthy, s.ExpectedPods)
}

// PDBs returns the PDBs that select any of these pods, sorted by name, for a plan: one list per namespace, and no watch.
func (c *Client) PDBs(ctx context.Context, pods []drain.Pod) ([]drain.PDB, error) {
	found := []drain.PDB{}
	for namespace, members := range podsByNamespace(pods) {
		list := &policyv1.PodDisruptionBudgetList{}
		err := c.policy.Get().Namespace(namespace).Resource("poddisruptionbudgets").Timeout(callTimeout).Do(ctx).Into(list)
		if err != nil {
			return nil, fmt.Errorf("list PodDisruptionBudgets of namespace %s: %w", namespace, err)
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
	pdb, status := toPDB(p), p.Status
	described := drain.PDB{
		Name: pdb.name, DisruptionsAllowed: int(status.DisruptionsAllowed), CurrentHealthy: int(status.CurrentHealthy),
		DesiredHealthy: int(status.DesiredHealthy), ExpectedPods: int(status.ExpectedPods), NeverReason: pdb.neverReason,
	}
	for _, pod := range pods {
		if pdb.selector.Matches(labels.Set(pod.Labels)) {
			described.Pods = append(described.Pods, pod.String())
		}
	}
	slices.Sort(described.Pods)
	return described
}
