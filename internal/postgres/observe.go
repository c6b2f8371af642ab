package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"quiesce/internal/escort"
)

const (
	// factsTimeout bounds the look at one cluster: some ten requests to the API server, each of which takes milliseconds.
	factsTimeout = 15 * time.Second
	// liveTimeout bounds the question to one member. A member that takes longer does not take part in a switchover.
	liveTimeout = 3 * time.Second
	// maxMembers bounds the pods of a cluster that are looked at. Clusters have two to five members.
	maxMembers = 32
)

// criticalLabel is on a pod that nothing may disturb (https://github.com/zalando/postgres-operator/blob/master/docs/administrator.md).
const criticalLabel = "critical-operation"

var (
	errTooManyMembers = errors.New("more pods have the labels of the cluster's members than a cluster has")
	errNoObjects      = errors.New("neither Endpoints nor ConfigMaps have a leader of this cluster")
)

// Observe returns what is known of the cluster and of the leader's volumes, and what its members say now. All members are asked at once.
func Observe(ctx context.Context, clusters Clusters, i Identity) (Facts, error) {
	return observe(ctx, clusters, i, true)
}

// observeMembers is Observe without the leader's volumes, which only matter for a primary that is to move.
func observeMembers(ctx context.Context, clusters Clusters, i Identity) (Facts, error) {
	return observe(ctx, clusters, i, false)
}

func observe(ctx context.Context, clusters Clusters, i Identity, volumes bool) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, factsTimeout)
	defer cancel()
	f, err := clusters.Facts(ctx, i)
	if err != nil {
		return Facts{}, fmt.Errorf("look at database %s: %w", i, err)
	}
	var group sync.WaitGroup
	if leader := f.LeaderMember(); leader != nil && volumes {
		leader := *leader // its live state is written meanwhile
		group.Go(func() {
			if err := safely(func() error { f.addUnattachable(ctx, clusters, leader); return nil }); err != nil {
				f.warn("it is not known whether another node can take the volumes of %s: %s", leader.Name, err)
			}
		})
	}
	for n := range f.Members {
		group.Go(func() {
			if err := safely(func() error { ask(ctx, clusters, i, &f.Members[n]); return nil }); err != nil {
				f.Members[n].Failure = err.Error()
			}
		})
	}
	group.Wait()
	f.addLive()
	if volumes {
		f.addDisk(ctx, clusters, f.Leader)
	}
	return f, nil
}

// ask replaces what is known of a member by what it says.
func ask(ctx context.Context, clusters Clusters, i Identity, m *Member) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	live, err := clusters.Live(ctx, i, *m)
	if err != nil {
		m.Failure = escort.Printable(err.Error())
		return
	}
	m.LiveState = live
}

// addLive adds what the members' answers say of the cluster. A member that does not answer may still do what it said last: it counts as
// a leader if it was one.
func (f *Facts) addLive() {
	var leaders []string
	for _, m := range f.Members {
		if m.Live && m.Role == Primary || !m.Live && slices.Contains(f.Leaders, m.Name) {
			leaders = append(leaders, m.Name)
		}
	}
	f.Leaders = leaders
	if leader := f.LeaderMember(); leader != nil {
		if leader.Live {
			f.LeaderLSN, f.LeaderLive, f.Timeline = leader.LSN, true, leader.Timeline
		}
		if leader.Version != "" {
			f.Version = leader.Version
		}
	}
}

// Observer implements Clusters with what the Kubernetes API has and members say.
type Observer struct {
	Settings
	Cluster Kubernetes
	// Get sends a GET to a member, if the function has a route to pods; nil: through the API server.
	Get func(ctx context.Context, m Member, path string) ([]byte, error)
}

var _ Clusters = (*Observer)(nil)

// Facts implements Clusters.
func (o *Observer) Facts(ctx context.Context, i Identity) (Facts, error) {
	f := Facts{Identity: i}
	var err error
	if f.Members, f.Others, err = o.members(ctx, i); err != nil {
		return Facts{}, err
	}
	if i.Operator.UsesPatroni() {
		err = o.addPatroni(ctx, &f)
	} else {
		err = o.addCNPG(ctx, &f)
	}
	if err != nil {
		return Facts{}, err
	}
	return f, nil
}

// members returns the cluster's pods, with the fate of their nodes.
func (o *Observer) members(ctx context.Context, i Identity) (members []Member, others int, err error) {
	pods, err := o.Cluster.PodsByLabel(ctx, i.Namespace, i.Members)
	if err != nil {
		return nil, 0, err
	}
	fates := map[string]escort.NodeFate{}
	for _, p := range pods {
		if is, ok := o.Recognize(p.Pod); !ok || !is.Same(i) || p.Finished {
			if !p.Finished {
				others++
			}
			continue
		}
		if len(members) == maxMembers {
			return nil, 0, errTooManyMembers
		}
		if _, known := fates[p.Node]; !known {
			if fates[p.Node], err = o.fate(ctx, p.Node); err != nil {
				return nil, 0, err
			}
		}
		members = append(members, toMember(p, i, fates[p.Node]))
	}
	return members, others, nil
}

// fate returns whether the node stays. A pod without a node has none to stay on.
func (o *Observer) fate(ctx context.Context, node string) (escort.NodeFate, error) {
	if node == "" {
		return escort.NodeFate{Leaving: "it has none yet"}, nil
	}
	return o.Cluster.NodeFate(ctx, node)
}

func toMember(p escort.Pod, i Identity, fate escort.NodeFate) Member {
	m := Member{
		Ref: p.Ref, Node: p.Node, Zone: fate.Zone, NodeCreated: fate.Created, IP: p.IP, Ready: p.Ready, Terminating: p.Terminating(),
		Leaving: fate.Leaving, Claims: p.Claims, NodeVolume: p.NodeVolume, CriticalOperation: i.Operator == Zalando && p.Labels[criticalLabel] == "true",
	}
	if !i.Operator.UsesPatroni() {
		m.Claims = slices.DeleteFunc(slices.Clone(m.Claims), func(claim string) bool { return claim == p.Name+cnpgScratch })
		m.API = Address{TLS: true, Port: cnpgStatusPort}
		return m
	}
	if status, written := readStatus(p.Annotations); written {
		status.addTo(&m)
	}
	return m
}

// addPatroni adds what Patroni's objects say.
func (o *Observer) addPatroni(ctx context.Context, f *Facts) error {
	objects, mode, err := o.leaderObject(ctx, f.Identity)
	if err != nil {
		return err
	}
	f.Mode = mode
	for name, into := range map[string]**escort.Annotated{
		f.ConfigObject(): &objects.config, f.SyncObject(): &objects.sync, f.FailoverObject(): &objects.failover,
	} {
		if *into, err = o.Cluster.Annotated(ctx, string(mode), f.Namespace, name); err != nil {
			return err
		}
	}
	objects.read(f)
	if f.Operator == Crunchy {
		o.addCrunchy(ctx, f)
	}
	for _, m := range f.Members {
		if m.Role == Primary {
			f.Leaders = append(f.Leaders, m.Name)
		}
		if m.Name == f.Leader {
			f.Timeline, f.Version = m.Timeline, m.Version
		}
	}
	return nil
}

// leaderObject finds the kind of objects that Patroni uses. A cluster that has changed from one to the other has both: the leader's key that
// was renewed later is the true one. What may not be read counts as not there, if the other kind has a leader.
func (o *Observer) leaderObject(ctx context.Context, i Identity) (found patroniObjects, mode Mode, err error) {
	var failures []error
	for _, candidate := range []Mode{Endpoints, ConfigMaps} {
		object, err := o.Cluster.Annotated(ctx, string(candidate), i.Namespace, i.LeaderObject(candidate))
		if err != nil {
			failures = append(failures, err)
			if !errors.Is(err, escort.ErrForbidden) {
				return patroniObjects{}, "", err
			}
		}
		if renewed := annotations(object)["renewTime"]; renewed == "" || mode != "" && !readTime(renewed).After(renewTime(found.leader)) {
			continue
		}
		found.leader, mode = object, candidate
	}
	if mode == "" {
		return patroniObjects{}, "", errors.Join(append(failures, errNoObjects)...)
	}
	return found, mode, nil
}

func renewTime(o *escort.Annotated) time.Time { return readTime(annotations(o)["renewTime"]) }

// addCNPG adds what the Cluster says.
func (o *Observer) addCNPG(ctx context.Context, f *Facts) error {
	var c cnpgCluster
	found, err := o.Cluster.Custom(ctx, cnpgGroup, cnpgClusters, f.Namespace, f.Cluster, &c)
	if err != nil {
		return err
	}
	if !found {
		f.hold("there is no Cluster %s", f.Cluster)
		return nil
	}
	c.read(f)
	return nil
}

// Disk implements Clusters.
func (o *Observer) Disk(ctx context.Context, m Member) string {
	if m.NodeVolume != "" {
		return "its data directory is in volume " + m.NodeVolume + ", which is on the node"
	}
	if len(m.Claims) == 0 {
		return "it has no PersistentVolumeClaim"
	}
	for _, claim := range m.Claims {
		follows, err := o.Cluster.VolumeFollows(ctx, m.Namespace, claim)
		switch {
		case err != nil:
			return escort.Printable(err.Error())
		case !follows:
			return "the volume of claim " + claim + " is deleted with its pod, or is not one that AWS attaches elsewhere"
		}
	}
	return ""
}

// Live implements Clusters.
func (o *Observer) Live(ctx context.Context, i Identity, m Member) (LiveState, error) {
	if m.API.Port == 0 {
		return LiveState{}, errors.New("it has not written the address of its HTTP interface yet")
	}
	path := "/patroni"
	if !i.Operator.UsesPatroni() {
		path = "/pg/status"
	}
	body, err := o.get(ctx, m, path)
	if err != nil {
		return LiveState{}, err
	}
	if i.Operator.UsesPatroni() {
		return readPatroni(body, i, m)
	}
	return readCNPG(body)
}

func (o *Observer) get(ctx context.Context, m Member, path string) ([]byte, error) {
	if o.Get != nil {
		return o.Get(ctx, m, path)
	}
	return o.Cluster.GetFromPod(ctx, m.Ref, m.API.Port, m.API.TLS, path)
}
