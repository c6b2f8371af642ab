// Package patroni deploys PostgreSQL clusters of Patroni (https://patroni.readthedocs.io) on a lab's real nodes, with poolers in
// front: as plain Patroni and as the operators that use it name and label them.
package patroni

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/env/database"
	"quiesce/test/parts/images"
	"quiesce/test/parts/lab"
)

//go:embed manifests
var manifests embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"json": toJSON}).ParseFS(manifests, "manifests/*.yaml"))

// toJSON formats labels for a manifest: JSON is YAML.
func toJSON(value any) (string, error) {
	text, err := json.Marshal(value)
	return string(text), err
}

const (
	// Alias is the second name of the database at the poolers, which PAUSE postgres leaves alone.
	Alias = "quiesce"
	// RESTUser and RESTPassword log in to the REST API with Options.RESTAuth.
	RESTUser     = "rest"
	RESTPassword = "lab-rest-password"

	defaultMembers = 3
	// grace is how long a member may take to switch over and stop, in seconds: far more than it needs on a busy machine.
	grace = 120
)

// Options configures a cluster and its poolers. Only Namespace, Base, Group and Version are required.
type Options struct {
	Namespace string // will be created
	Base      string // label `group` of the nodes of the clients, which are never terminated
	Group     string // label `group` of the nodes of the members, one member on each
	Version   string // of Patroni: 3.0, with PostgreSQL 15, or 4.0, with PostgreSQL 17

	Endpoints   bool // Patroni keeps its state in Endpoints; default in ConfigMaps
	Members     int  // default 3
	Synchronous bool // synchronous_mode
	Strict      bool // synchronous_mode_strict
	RESTAuth    bool // the REST API asks for a password before it changes anything
	Claim       Claim
	Follows     string // the address of a server that a standby cluster follows; default none: the cluster takes writes
	Style       Style
	PDB         PDB  // default none
	Callbacks   bool // of infra/patronicallback, for all poolers

	Poolers       database.Options // Version is required; its nodes are those of Base
	BesideMembers bool             // the poolers are on nodes of the members
}

// Count returns how many members a cluster has with these options.
func (o Options) Count() int { return cmp.Or(o.Members, defaultMembers) }

// Claim is the kind of volume that a cluster of one member has.
type Claim string

// The kinds of volumes.
const (
	NoClaim    Claim = ""                // a folder that goes with the pod
	LocalClaim Claim = "local"           // on the node's own disk
	EBSClaim   Claim = "ebs.csi.aws.com" // of the lab's storage driver, which has the name of that of EBS; it follows the pod
)

// PDB is the kind of a cluster's PDB.
type PDB string

// The kinds of PDBs.
const (
	PDBOfPrimary PDB = "primary" // as Zalando's operator makes it: the primary may never be evicted
	PDBOfMembers PDB = "members" // one member must be left
)

// Cluster is a running cluster with its poolers and clients.
type Cluster struct {
	*database.Database
	options Options
	names   names
	lab     *lab.Lab
}

// Deploy deploys a cluster and its poolers, and waits until all members stream and all poolers are ready.
func Deploy(ctx context.Context, l *lab.Lab, o Options) (*Cluster, error) {
	o.Members = o.Count()
	c := &Cluster{options: o, names: o.Style.names(), lab: l}
	if err := c.deployMembers(ctx); err != nil {
		return nil, fmt.Errorf("deploy Patroni: %w", err)
	}
	service, err := l.Client().CoreV1().Services(o.Namespace).Get(ctx, c.names.Scope, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("deploy Patroni: %w", err)
	}
	c.Database, err = database.InFront(ctx, l, c.poolers(), database.Server{Host: service.Spec.ClusterIP, Primary: c.addressOfLeader})
	return c, err
}

// DeployAlone deploys a cluster without poolers, and waits until all members run and stream.
func DeployAlone(ctx context.Context, l *lab.Lab, o Options) (*Cluster, error) {
	o.Members = o.Count()
	c := &Cluster{options: o, names: o.Style.names(), lab: l}
	c.Database = database.Alone(l, o.Namespace, database.Server{Primary: c.addressOfLeader})
	if err := c.deployMembers(ctx); err != nil {
		return nil, fmt.Errorf("deploy Patroni: %w", err)
	}
	return c, nil
}

func (c *Cluster) deployMembers(ctx context.Context) error {
	if err := c.makeFolders(ctx); err != nil {
		return err
	}
	n := c.names
	values := struct {
		Options
		names
		Grace        int
		Image        string
		LeaderLabels labels.Set
		Sets         []set
		PDB          any
		RESTUser     string
		RESTPassword string
		Callback     string
		Poolers      callbackPoolers
		Folder       string
	}{
		Options: c.options, names: n, Grace: grace, Image: c.Image(), LeaderLabels: c.leaderLabels(), Sets: n.sets(c.options.Members),
		PDB: c.pdb(), RESTUser: RESTUser, Folder: c.folder(),
		Poolers: callbackPoolers{database.AdminUser, database.AdminPassword, database.PoolerLabels},
	}
	if c.options.Callbacks {
		values.Callback = images.ProgramRef("patronicallback")
	}
	if c.options.RESTAuth {
		values.RESTPassword = RESTPassword
	}
	if err := database.Apply(ctx, c.lab, templates, "cluster.yaml", values); err != nil {
		return err
	}
	if _, err := c.AwaitReady(ctx); err != nil {
		return err
	}
	if c.options.Members == 1 {
		return c.awaitAnyLeader(ctx)
	}
	return c.AwaitStreaming(ctx)
}

// callbackPoolers is what the callbacks need to know of the poolers.
type callbackPoolers struct {
	User, Password string
	Labels         labels.Set
}

// Image returns the name of the members' image. It has pgbench too.
func (c *Cluster) Image() string { return "localhost/patroni:" + c.options.Version }

func (c *Cluster) leaderLabels() labels.Set {
	return merge(c.names.ObjectLabels(), labels.Set{c.names.RoleLabel: c.names.leaderValue(c.options.Version)})
}

// pdb returns the PDB's name and labels.
func (c *Cluster) pdb() any {
	switch c.options.PDB {
	case PDBOfPrimary:
		return map[string]any{"Name": "postgres-" + cluster + "-pdb", "Labels": c.leaderLabels()}
	case PDBOfMembers:
		return map[string]any{"Name": cluster, "Labels": c.names.PodLabels()}
	}
	return nil
}

// poolers returns the options of the poolers. They wait as long after a failed login as by default.
func (c *Cluster) poolers() database.Options {
	o := c.options.Poolers
	o.Namespace, o.Base, o.Group, o.Alias = c.options.Namespace, c.options.Base, c.options.Base, Alias
	o.Together = !c.options.BesideMembers
	if c.options.BesideMembers {
		o.Group = c.options.Group
	}
	if o.LoginRetry == 0 {
		const byDefault = 15 // https://www.pgbouncer.org/config.html#server_login_retry
		o.LoginRetry = byDefault
	}
	return o
}

// Scope returns the name of Patroni's objects.
func (c *Cluster) Scope() string { return c.names.Scope }

// RESTSecret returns the name of the Secret with username and password of the REST API.
func (c *Cluster) RESTSecret() string { return c.names.RESTSecret }

// Members returns the members' pods, in any state.
func (c *Cluster) Members(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.lab.Client().CoreV1().Pods(c.options.Namespace).List(ctx, metav1.ListOptions{LabelSelector: c.names.PodLabels().String()})
	if err != nil {
		return nil, fmt.Errorf("list the members: %w", err)
	}
	return list.Items, nil
}

// Member returns the pod of a member.
func (c *Cluster) Member(ctx context.Context, name string) (corev1.Pod, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return corev1.Pod{}, err
	}
	i := slices.IndexFunc(members, func(p corev1.Pod) bool { return p.Name == name })
	if i < 0 {
		return corev1.Pod{}, fmt.Errorf("%w %q: %s", ErrNoMember, name, database.Describe(members))
	}
	return members[i], nil
}

// ErrNoMember is the error for a pod that is not there.
var ErrNoMember = errors.New("no member is called")

// LeaderName returns the name of the member that has the leader key; empty if none has it.
func (c *Cluster) LeaderName(ctx context.Context) (string, error) {
	annotations, err := c.leaderAnnotations(ctx)
	return annotations["leader"], err
}

// leaderAnnotations returns the annotations of Patroni's leader object; none before it exists.
func (c *Cluster) leaderAnnotations(ctx context.Context) (map[string]string, error) {
	core := c.lab.Client().CoreV1()
	var object metav1.Object
	var err error
	if c.options.Endpoints {
		object, err = core.Endpoints(c.options.Namespace).Get(ctx, c.names.Scope, metav1.GetOptions{})
	} else {
		object, err = core.ConfigMaps(c.options.Namespace).Get(ctx, c.names.Scope+"-leader", metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the leader's key: %w", err)
	}
	return object.GetAnnotations(), nil
}

// Leader returns the pod of the leader.
func (c *Cluster) Leader(ctx context.Context) (corev1.Pod, error) {
	name, err := c.LeaderName(ctx)
	if err != nil {
		return corev1.Pod{}, err
	}
	return c.Member(ctx, name)
}

// NodeOfLeader returns the name of the leader's node.
func (c *Cluster) NodeOfLeader(ctx context.Context) (string, error) {
	leader, err := c.Leader(ctx)
	return leader.Spec.NodeName, err
}

func (c *Cluster) addressOfLeader(ctx context.Context) (string, error) {
	leader, err := c.Leader(ctx)
	return leader.Status.PodIP, err
}
