package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// Alias is the name of a pooler's database that no move pauses. It leads to the same server as the others, and proves that clients can
// write again before the other databases are resumed.
const Alias = "quiesce"

const (
	// maxQuiet is how long an open transaction may have been quiet for a pause to begin. Most transactions take less; while a longer one
	// is open, every other client would wait for it in vain.
	maxQuiet = 5 * time.Second
	// maxPoolers bounds the poolers of one cluster. Each needs two connections or more.
	maxPoolers = 100
)

// front is a pooler in front of a primary.
type front struct {
	pod       escort.Pod
	console   Console       // nil: none
	databases []string      // that lead to the primary and can be paused, without the alias
	streaming []string      // that lead to the primary, and have a replication client, for which a pause would wait
	unnamed   []string      // that lead to the primary, and that no command can name
	unnamable bool          // one of them has clients
	elsewhere int           // databases that do not lead to the primary
	idle      int           // databases that lead to the primary, are too many, and have no clients
	alias     bool          // one of them is the alias
	retry     string        // its setting server_login_retry
	queryWait time.Duration // zero: clients wait forever
	queryTime time.Duration // zero: queries may take forever
	paused    string        // a database that is paused already; empty: none
	unheld    string        // why its clients cannot be held, in words; empty: they can
	silent    bool          // for a reason that may be over in a moment: its console did not answer
	proven    bool          // a write through it has reached the new primary

	asksForPasswords bool // it asks the database for passwords, and logs in there with what clients prove
}

// isReplaced reports whether the escort of poolers replaces it. It still serves its clients, and its labels and its owner are not its own.
func (p *front) isReplaced() bool {
	return p.pod.Labels[drain.EscortLabel] == string(config.StrategySurge)
}

// serves reports whether a pooler that is stopping may still have its clients: while its hook runs, and from pgbouncer 1.23 on until they
// disconnect or its grace period ends (https://www.pgbouncer.org/usage.html#signals).
func (p *front) serves() bool {
	runs := func(c escort.Container) bool { return c.Process != "" }
	return !p.pod.Deleted.IsZero() && time.Now().Before(p.pod.StopsBy) && slices.ContainsFunc(p.pod.Containers, runs)
}

// paths are the Services and poolers through which clients reach a primary.
type paths struct {
	services []string // of the cluster's namespace: the names of those that lead to the primary and nowhere else
	fronts   []*front // in order of their names
	others   []*front // the other poolers that were looked at; unheld, and none leads elsewhere: nothing says where they lead
}

// unknown returns the names of the poolers without a console of which nothing says where they lead.
func (s *paths) unknown() (names []string) {
	for _, p := range s.others {
		if p.unheld != "" && p.elsewhere == 0 {
			names = append(names, p.pod.Ref.String())
		}
	}
	return names
}

// leadElsewhere says which poolers have the cluster's labels, and databases none of which leads to the primary; empty: none. Clients
// of these may see the switchover.
func (s *paths) leadElsewhere(i Identity) string {
	var names []string
	for _, p := range s.others {
		if p.unheld == "" && p.elsewhere > 0 && !p.alias && len(p.unnamed) == 0 && belongs(p.pod, i) {
			names = append(names, p.pod.Ref.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "there are poolers none of whose databases leads to the primary, though their labels are the cluster's: " + drain.Names(names, maxNames)
}

// close closes the consoles. What is paused stays paused.
func (s *paths) close() {
	for _, p := range s.fronts {
		if p.console != nil {
			p.console.Close()
		}
	}
}

// findPaths finds the poolers in front of the leader, and opens their consoles. Acts reports whether they are going to be paused: otherwise
// nothing is changed. Where a database in use is not shown, a login is begun, and ended (reveal.go).
func (e *Escort) findPaths(ctx context.Context, cluster Cluster, f *Facts, acts bool) (*paths, error) {
	leader := f.LeaderMember()
	all, err := cluster.Services(ctx, f.Namespace)
	if err != nil {
		return nil, fmt.Errorf("find the Services of the primary: %w", err)
	}
	leading := leadingTo(all, leader.IP)
	found := &paths{}
	for _, s := range leading {
		found.services = append(found.services, s.Name)
	}
	pods, err := e.poolerPods(ctx, cluster, f.Namespace)
	if err != nil {
		return nil, fmt.Errorf("find poolers: %w", err)
	}
	fronts := make([]*front, len(pods))
	var group sync.WaitGroup
	for i, pod := range pods {
		group.Go(func() { fronts[i] = e.look(ctx, pod, f, leading, acts) })
	}
	group.Wait()
	for _, p := range fronts {
		inFront := p.unheld != "" && belongs(p.pod, f.Identity)
		if inFront && isReadOnly(ctx, cluster, p.pod) {
			inFront, p.elsewhere = false, 1
		}
		if len(p.databases)+len(p.streaming) > 0 || inFront {
			found.fronts = append(found.fronts, p)
			continue
		}
		found.others = append(found.others, p)
		if p.console != nil {
			p.console.Close()
		}
	}
	return found, nil
}

// poolerPods returns the poolers that may be in front: those of the database's namespace, and of the namespaces that are configured.
func (e *Escort) poolerPods(ctx context.Context, cluster Cluster, namespace string) ([]escort.Pod, error) {
	if e.IsPooler == nil || e.Settings.Poolers == config.PoolersNone {
		return nil, nil
	}
	var found []escort.Pod
	namespaces := append([]string{namespace}, e.PoolerNamespaces...)
	slices.Sort(namespaces)
	for _, ns := range slices.Compact(namespaces) {
		pods, err := cluster.PodsMatching(ctx, ns, func(p drain.Pod) bool { return !p.Finished && e.IsPooler(p) })
		if err != nil {
			return nil, err
		}
		found = append(found, pods...)
	}
	if len(found) > maxPoolers {
		return nil, fmt.Errorf("there are %d, and at most %d can be held", len(found), maxPoolers)
	}
	slices.SortFunc(found, func(a, b escort.Pod) int { return refOrder(a.Ref, b.Ref) })
	return found, nil
}

// look opens the pooler's console, and finds the databases that lead to the leader.
func (e *Escort) look(ctx context.Context, pod escort.Pod, f *Facts, leading []escort.Service, acts bool) *front {
	p := &front{pod: pod, asksForPasswords: isCNPGPooler(pod)}
	if !pod.Deleted.IsZero() { // pgbouncer must not be paused while it shuts down; its console may say where it leads
		defer func() { p.unheld, p.silent = "it is stopping", false }()
		if !p.serves() {
			return p
		}
	}
	if isCNPGPooler(pod) {
		p.unheld = ownPooler
		return p
	}
	err := safely(func() (err error) { p.console, err = e.Consoles.Open(ctx, pod); return err })
	if err != nil {
		p.console, p.unheld, p.silent = nil, "no console: "+drain.Short(err.Error()), pod.Ready && isSilence(err)
		return p
	}
	if err := safely(func() error { return p.read(ctx, f, leading, acts) }); err != nil {
		p.unheld, p.silent = "its console is of no use: "+drain.Short(err.Error()), pod.Ready && isSilence(err)
	}
	return p
}

// isSilence reports whether a console did not answer, and another look may find one that does.
func isSilence(err error) bool {
	return escort.IsUnreached(err) || errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, escort.ErrForbidden)
}

// read reads what the console says, and finds the databases that lead to the leader.
func (p *front) read(ctx context.Context, f *Facts, leading []escort.Service, acts bool) error {
	ctx, cancel := context.WithTimeout(ctx, escort.ConsoleTimeout)
	defer cancel()
	state, err := p.console.Look(ctx)
	if err == nil && acts && p.pod.Deleted.IsZero() { // one that stops has settings that its escort changes
		err = p.console.CheckCommands(ctx)
	}
	if err != nil {
		return err
	}
	p.queryWait, p.queryTime, p.retry = state.QueryWait, state.QueryTime, state.LoginRetry
	p.asksForPasswords = p.asksForPasswords || state.AuthQuery
	var leads []PoolerDatabase
	for _, d := range state.Databases {
		switch {
		case !annotatedFor(p.pod, f.Identity) && !hostLeads(d.Host, p.pod.Namespace, f.LeaderMember().IP, leading):
			p.elsewhere++
		case d.Name == Alias:
			p.alias = true
		case !pgbouncer.IsPausable(d.Name): // clients have pgbouncer make a database of any name from the entry "*", without a login
			p.unnamed, p.unnamable = append(p.unnamed, drain.Short(d.Name)), p.unnamable || d.InUse
		default:
			leads = append(leads, d)
		}
	}
	if state.Shared && len(leads) > 0 {
		p.unheld = pgbouncer.ErrShared.Error()
	}
	for _, d := range p.bounded(leads) {
		p.add(d)
	}
	if len(p.databases) == 0 && p.unheld == "" {
		p.unheld = p.whatStreams()
	}
	return nil
}

// whatStreams says which databases have a replication client; empty: none.
func (p *front) whatStreams() string {
	if len(p.streaming) == 0 {
		return ""
	}
	return "its databases with a replication client, which a pause would wait for, are not paused: " + drain.Names(p.streaming, maxNames)
}

// bounded returns no more databases than can be paused. Those without clients are left out first: no client waits for them, and whoever makes
// databases without a login must not keep the others from being paused.
func (p *front) bounded(databases []PoolerDatabase) []PoolerDatabase {
	if len(databases) <= maxDatabases {
		return databases
	}
	var used, idle []PoolerDatabase
	for _, d := range databases {
		if d.InUse {
			used = append(used, d)
		} else {
			idle = append(idle, d)
		}
	}
	if len(used) > maxDatabases {
		p.unheld = fmt.Sprintf("more than %d of its databases lead to the primary", maxDatabases)
		return used[:maxDatabases]
	}
	p.idle = len(databases) - maxDatabases
	return slices.Concat(used, idle)[:maxDatabases]
}

// whatIsNotPaused says which databases that lead to the primary are not paused, and why; empty: all are.
func (p *front) whatIsNotPaused() string {
	var reasons []string
	if len(p.unnamed) > 0 {
		reasons = append(reasons, "its databases whose names no command can have are not paused: "+drain.Names(p.unnamed, maxNames))
	}
	if p.idle > 0 {
		reasons = append(reasons, fmt.Sprintf("%d databases without clients are not paused, because more than %d lead to the primary", p.idle, maxDatabases))
	}
	if p.unheld == "" && len(p.streaming) > 0 {
		reasons = append(reasons, p.whatStreams())
	}
	return strings.Join(reasons, ", and ")
}

// add adds a database that leads to the primary.
func (p *front) add(d PoolerDatabase) {
	if d.Streams && !d.Paused {
		p.streaming = append(p.streaming, d.Name)
		return
	}
	switch {
	case d.Sessions:
		p.unheld = fmt.Sprintf("database %s has sessions, which a pause would wait for", drain.Short(d.Name))
	case d.Paused:
		p.paused = drain.Short(d.Name)
		p.unheld = "another administrator has paused database " + p.paused
	}
	p.databases = append(p.databases, d.Name)
}

// leadingTo returns the Services that lead to the address and nowhere else: by themselves, or through the ClusterIP of one that does. That
// of a primary of Crunchy's operator is headless, and leads to the ClusterIP of Patroni's Service
// (https://github.com/CrunchyData/postgres-operator/blob/main/internal/controller/postgrescluster/cluster.go, generateClusterPrimaryService).
func leadingTo(all []escort.Service, address string) (leading []escort.Service) {
	addresses := []string{address}
	for _, s := range all {
		if leadsOnlyTo(s, address) {
			addresses = append(addresses, s.Addresses...)
		}
	}
	for _, s := range all {
		if leadsOnlyTo(s, addresses...) {
			leading = append(leading, s)
		}
	}
	return leading
}

// leadsOnlyTo reports whether all ready endpoints of the Service are among the addresses. One that leads to replicas too is none that a move
// changes.
func leadsOnlyTo(s escort.Service, addresses ...string) bool {
	return len(s.Ready) > 0 && !slices.ContainsFunc(s.Ready, func(a string) bool { return !slices.Contains(addresses, a) })
}

// hostLeads reports whether one of the hosts that pgbouncer connects to is the primary, or a Service that leads to it
// (https://www.pgbouncer.org/config.html#host). A Service's name without a namespace is one of the pooler's own
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/).
func hostLeads(hosts, namespace, leader string, leading []escort.Service) bool {
	for host := range strings.SplitSeq(hosts, ",") {
		host = strings.TrimSuffix(strings.ToLower(strings.TrimSpace(host)), ".")
		if host == leader && host != "" {
			return true
		}
		for _, s := range leading {
			full := s.Name + "." + s.Namespace
			if slices.Contains(s.Addresses, host) || host == s.Name && s.Namespace == namespace || host == full || host == full+".svc" ||
				strings.HasPrefix(host, full+".svc.") {
				return true
			}
		}
	}
	return false
}

// belongs reports whether labels or the annotation say that the pooler is one of the cluster's primary. Their sources are those of the
// presets in package pooler.
func belongs(p escort.Pod, i Identity) bool {
	if annotatedFor(p, i) {
		return true
	}
	if p.Namespace != i.Namespace {
		return false
	}
	_, zalando := p.Labels["connection-pooler"]
	return p.Labels[escort.CloudNativePGCluster] == i.Cluster && p.Labels[escort.CloudNativePGPooler] != "" ||
		zalando && p.Labels["cluster-name"] == i.Cluster && p.Labels["spilo-role"] != "replica" ||
		p.Labels[escort.CrunchyCluster] == i.Cluster
}

// belongsElsewhere reports whether labels or the annotation say that the pooler is one of another cluster.
func belongsElsewhere(p escort.Pod, i Identity) bool {
	named := cmp.Or(p.Annotations[escort.DatabaseAnnotation], p.Labels[escort.CloudNativePGCluster], p.Labels["cluster-name"],
		p.Labels[escort.CrunchyCluster])
	return named != "" && !belongs(p, i)
}

func annotatedFor(p escort.Pod, i Identity) bool {
	value := p.Annotations[escort.DatabaseAnnotation]
	return value == i.String() || value == i.Cluster && p.Namespace == i.Namespace
}
