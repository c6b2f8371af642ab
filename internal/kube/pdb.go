package kube

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

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
	// staleRecheck is how long a status of an earlier generation is believed. The controller needs milliseconds for the latest one;
	// a second bounds the requests while it is down.
	staleRecheck = time.Second
	// unknownRecheck is how long a refusal is believed if the PDB is not known, because it cannot be read, or is too large to keep.
	// Without it, each change on the node would repeat the request. A second delays the pod by no more than that.
	unknownRecheck = time.Second
)

// pdbs watches the PDBs of each namespace in which a PDB blocked an eviction. It spares the server the requests that it would
// refuse again. A namespace without a refusal costs nothing. Where it does not know, it lets the server decide.
type pdbs struct {
	watchCtx context.Context // of the watches, which last as long as the drain's own
	client   *Client
	notify   func()

	mu         sync.Mutex
	namespaces map[string]*namespacePDBs
	asked      map[drain.Ref]asked // of the last eviction request
}

// namespacePDBs are the PDBs of one namespace.
type namespacePDBs struct {
	loaded chan struct{} // closed when they are known, or cannot be read
	watch  *activeWatch  // nil: of a test
	known  map[string]*pdb
	next   map[string]*pdb // a list that is not complete yet; nil: none
	// selecting has what was found of pods since a selector last changed. Each change on the node asks for all pods, and comparing each
	// with each PDB then would take a time that grows with both.
	selecting map[drain.Ref]selected
}

// asked is what an eviction request rested on.
type asked struct {
	at       time.Time
	ready    bool
	versions uint64 // a hash of those of the PDBs that select the pod: they may be many
	unready  uint64 // a hash of what these PDBs decide by about a pod that is not ready
	// refusal is the server's answer, if a PDB refused that is not known to select the pod.
	refusal *drain.Blocked
}

// pdb is the part of a PodDisruptionBudget that decides an eviction.
type pdb struct {
	name        string // namespace/name
	version     string
	generation  int64
	selector    labels.Selector
	comparisons int    // that the selector takes for one pod at most
	allowed     int    // disruptions allowed, minus evictions requested since that status
	stale       bool   // the status is of an earlier generation: the server refuses until the controller has seen this one
	neverReason string // why no change of pods allows a disruption; empty: a change can
	status      policyv1.PodDisruptionBudgetStatus
}

func newPDBs(ctx context.Context, c *Client, notify func()) *pdbs {
	return &pdbs{
		watchCtx: ctx, client: c, notify: notify, namespaces: map[string]*namespacePDBs{}, asked: map[drain.Ref]asked{},
	}
}

// reserve returns the reason if the server would refuse to evict the pod now. Otherwise it returns nil and counts the eviction
// against the pod's PDBs; a dry run is not counted.
// Each pod is requested once, whatever its PDBs allow: a PDB may let an unhealthy pod go even if it allows no disruption
// (https://kubernetes.io/docs/tasks/run-application/configure-pdb/#unhealthy-pod-eviction-policy). So it is requested again
// when its readiness changes. A pod that is not ready is also requested again when one of its PDBs changes its policy, or has enough
// healthy pods.
func (d *pdbs) reserve(p seenPod, dryRun bool) *drain.Blocked {
	d.mu.Lock()
	defer d.mu.Unlock()
	matching := d.matching(p)
	now := asked{at: time.Now(), ready: p.ready, versions: hashOf(matching, (*pdb).versionText), unready: hashOf(matching, (*pdb).unreadyText)}
	before := d.asked[p.Ref]
	blocked, recheck := d.expectedBlock(p, matching)
	if len(matching) == 0 {
		blocked, recheck = before.refusal, unknownRecheck
	}
	if blocked != nil && !before.isOutdated(now, recheck) {
		return blocked
	}
	if dryRun {
		return nil
	}
	d.asked[p.Ref] = now
	d.count(p, matching, -1)
	return nil
}

func (a asked) isOutdated(now asked, recheck time.Duration) bool {
	return now.at.Sub(a.at) >= recheck || a.ready != now.ready || !now.ready && a.unready != now.unready
}

// release undoes reserve, for a request that evicted nothing and that no PDB refused: the pod is requested again.
func (d *pdbs) release(p seenPod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	matching := d.matching(p)
	if hashOf(matching, (*pdb).versionText) == d.asked[p.Ref].versions {
		d.count(p, matching, 1)
	}
	delete(d.asked, p.Ref)
}

// count changes what the PDBs allow. The eviction of a pod that is not ready may take nothing from them.
func (d *pdbs) count(p seenPod, matching []*pdb, change int) {
	if !p.ready {
		return
	}
	for _, pdb := range matching {
		pdb.allowed += change
	}
}

// expectedBlock returns what the server would answer for a pod with these PDBs, and how long to believe that without a request.
// What a broken watch has shown is believed for the shorter time.
func (d *pdbs) expectedBlock(p seenPod, matching []*pdb) (*drain.Blocked, time.Duration) {
	never := neverRecheck
	if watch := d.namespaces[p.Namespace]; watch != nil && watch.watch != nil && !watch.watch.live.Load() {
		never = blockedRecheck
	}
	if len(matching) > 1 {
		return &drain.Blocked{PDBs: pdbNames(matching), Reason: multiplePDBs, Never: true}, never
	}
	for _, pdb := range matching {
		switch {
		case pdb.neverReason != "":
			return &drain.Blocked{PDBs: []string{pdb.name}, Reason: pdb.neverReason, Never: true}, never
		case pdb.stale:
			return &drain.Blocked{PDBs: []string{pdb.name}, Reason: "its latest change is not processed yet"}, staleRecheck
		case pdb.allowed <= 0:
			return &drain.Blocked{PDBs: []string{pdb.name}, Reason: "no disruption allowed", First: pdb.described()}, blockedRecheck
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

// hashOf returns a hash of the names of these PDBs and of one text of each.
func hashOf(pdbs []*pdb, text func(*pdb) string) uint64 {
	var hash maphash.Hash
	hash.SetSeed(pdbSeed)
	for _, pdb := range pdbs {
		_, _ = hash.WriteString(pdb.name + "@" + text(pdb) + ",")
	}
	return hash.Sum64()
}

var pdbSeed = maphash.MakeSeed()

func (p *pdb) versionText() string { return p.version }

// unreadyText returns what decides the eviction of a pod that is not ready: the policy, which is part of the spec, and whether enough
// others are healthy. Each write to the status would repeat the requests for all such pods in vain
// (https://github.com/kubernetes/kubernetes/blob/master/pkg/registry/core/pod/storage/eviction.go).
func (p *pdb) unreadyText() string {
	enough := p.status.DesiredHealthy > 0 && p.status.CurrentHealthy >= p.status.DesiredHealthy
	return fmt.Sprint(p.generation, enough)
}

// explain replaces the server's refusal with a clearer one if only a change of the PDBs can help, and adds the PDB's numbers.
func (d *pdbs) explain(p seenPod, refusal *drain.Blocked) *drain.Blocked {
	d.mu.Lock()
	defer d.mu.Unlock()
	matching := d.matching(p)
	if blocked, _ := d.expectedBlock(p, matching); blocked != nil && blocked.Never {
		return blocked
	}
	if len(matching) == 1 && slices.Contains(refusal.PDBs, matching[0].name) && !matching[0].stale {
		refusal.First = matching[0].described()
	}
	if before := d.asked[p.Ref]; len(matching) == 0 && !before.at.IsZero() {
		before.refusal = refusal
		d.asked[p.Ref] = before
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
	if started, is := d.namespaces[namespace]; is {
		return started.loaded
	}
	n := &namespacePDBs{loaded: make(chan struct{})}
	d.namespaces[namespace] = n
	n.watch = source[*pdb]{
		Client: d.client, api: d.client.policy, namespace: namespace, resource: "poddisruptionbudgets",
		decode: decodePDB, sink: namespaceSink{d, n},
	}.start(d.watchCtx)
	go func() {
		defer close(n.loaded)
		_ = n.watch.wait(d.watchCtx) // without PDBs, evictions are requested again as the drain's own retries come
	}()
	return n.loaded
}

// pdbFields are the fields of a PDB that an eviction depends on. status.disruptedPods is not among them
// (https://github.com/kubernetes/api/blob/master/policy/v1/generated.proto).
var pdbFields = wireFields{
	objectMetadata: {1: nil, 3: nil, 6: nil, 7: nil},
	2:              {2: nil},                                         // spec: selector
	3:              {1: nil, 3: nil, 4: nil, 5: nil, 6: nil, 7: nil}, // status
}

func decodePDB(object []byte) (*pdb, error) {
	var p policyv1.PodDisruptionBudget
	if err := decodeKept(object, pdbFields, &p); err != nil {
		return nil, err
	}
	return toPDB(&p), nil
}

func toPDB(p *policyv1.PodDisruptionBudget) *pdb {
	selector := labels.Nothing() // if the server cannot parse it either, it ignores the PDB
	if p.Spec.Selector.Size() <= maxSelectorBytes {
		if parsed, err := metav1.LabelSelectorAsSelector(p.Spec.Selector); err == nil {
			selector = parsed
		}
	}
	status := p.Status
	reason := NeverReason(p)
	status.DisruptedPods, status.Conditions = nil, nil
	return &pdb{
		name: key(p).String(), version: p.ResourceVersion, generation: p.Generation,
		selector: selector, comparisons: comparisons(p.Spec.Selector), allowed: int(p.Status.DisruptionsAllowed),
		stale: p.Status.ObservedGeneration < p.Generation, neverReason: reason, status: status,
	}
}

// comparisons returns how many comparisons the selector takes for one pod at most: one with each key, and one with each value.
func comparisons(s *metav1.LabelSelector) (sum int) {
	if s == nil {
		return 0
	}
	sum = len(s.MatchLabels)
	for _, r := range s.MatchExpressions {
		sum += 1 + len(r.Values)
	}
	return sum
}

// NeverReason returns why the PDB can never allow a disruption; empty: it can. A PDB never allows one if it requires at
// least as many healthy pods as are expected. The status must be of the latest generation. Neither does it while its controller
// cannot sync it
// (https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/disruption/disruption.go, failSafe).
func NeverReason(p *policyv1.PodDisruptionBudget) string {
	s := p.Status
	for _, c := range s.Conditions {
		if c.Type == policyv1.DisruptionAllowedCondition && c.Status == metav1.ConditionFalse && c.Reason == policyv1.SyncFailedReason {
			return drain.Short("cannot allow a disruption while it fails to sync: " + c.Message)
		}
	}
	if s.ObservedGeneration < p.Generation || s.ExpectedPods == 0 || s.DesiredHealthy < s.ExpectedPods {
		return ""
	}
	return fmt.Sprintf("can never allow a disruption: wants %d healthy pods of %d", s.DesiredHealthy, s.ExpectedPods)
}

// PDBs returns the PDBs that select any of these pods, sorted by name, for a plan: one list per namespace, and no watch.
func (c *Client) PDBs(ctx context.Context, pods []drain.Pod) ([]drain.PDB, error) {
	found := []drain.PDB{}
	for namespace, members := range podsByNamespace(pods) {
		err := eachObject(ctx, c.policy.Get().Namespace(namespace).Resource("poddisruptionbudgets"), func(object []byte) error {
			pdb, err := decodePDB(object)
			if err != nil {
				return err
			}
			if b := describePDB(pdb, members); len(b.Pods) > 0 {
				found = append(found, b)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list PodDisruptionBudgets of namespace %s: %w", namespace, err)
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

// described returns the PDB without its pods.
func (p *pdb) described() *drain.PDB {
	return &drain.PDB{
		Name: p.name, DisruptionsAllowed: int(p.status.DisruptionsAllowed), CurrentHealthy: int(p.status.CurrentHealthy),
		DesiredHealthy: int(p.status.DesiredHealthy), ExpectedPods: int(p.status.ExpectedPods), NeverReason: p.neverReason,
	}
}

func describePDB(p *pdb, pods []drain.Pod) drain.PDB {
	described := *p.described()
	for _, pod := range pods {
		if p.selector.Matches(labels.Set(pod.Labels)) {
			described.Pods = append(described.Pods, pod.String())
		}
	}
	slices.Sort(described.Pods)
	return described
}
