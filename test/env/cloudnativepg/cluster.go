package cloudnativepg

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/env/database"
	"quiesce/test/parts/lab"
)

//go:embed manifests
var manifests embed.FS

var templates = template.Must(template.ParseFS(manifests, "manifests/*.yaml"))

const (
	// Alias is the second name of the database at the poolers, which PAUSE postgres leaves alone.
	Alias = "quiesce"
	// Name is the name of every cluster. Each has a namespace of its own.
	Name = "demo"

	defaultInstances = 3
	// loginRetry is pgbouncer's own default, in seconds.
	loginRetry = 15
)

// Options configures a cluster and its poolers. Namespace, Base, Group and the poolers' version are required.
type Options struct {
	Namespace string // will be created
	Base      string // label `group` of the nodes of the poolers and clients, which are never terminated
	Group     string // label `group` of the nodes of the instances, one on each
	Instances int    // default 3
	Poolers   database.Options
	Own       bool // a Pooler of the operator's own in place of plain poolers
}

// Count returns how many instances a cluster has with these options.
func (o Options) Count() int { return cmp.Or(o.Instances, defaultInstances) }

// Cluster is a running cluster with its poolers and clients.
type Cluster struct {
	*database.Database
	options Options
	lab     *lab.Lab
}

// Deploy deploys a cluster and poolers in front, and waits until all instances stream and all poolers are ready.
func Deploy(ctx context.Context, l *lab.Lab, o Options) (*Cluster, error) {
	o.Instances = o.Count()
	c := &Cluster{options: o, lab: l}
	if err := c.deployInstances(ctx); err != nil {
		return nil, fmt.Errorf("deploy a cluster of CloudNativePG: %w", err)
	}
	service, err := l.Client().CoreV1().Services(o.Namespace).Get(ctx, Name+"-rw", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("deploy a cluster of CloudNativePG: %w", err)
	}
	if err := c.prepareRole(ctx); err != nil {
		return nil, fmt.Errorf("deploy a cluster of CloudNativePG: %w", err)
	}
	p := o.Poolers
	p.Namespace, p.Base, p.Group, p.Together, p.Alias = o.Namespace, o.Base, o.Base, true, Alias
	p.LoginRetry = cmp.Or(p.LoginRetry, loginRetry)
	if o.Own {
		p.Labels = labels.Set{"cnpg.io/poolerName": Pooler}
		if err := c.deployPooler(ctx); err != nil {
			return nil, fmt.Errorf("deploy a Pooler of CloudNativePG: %w", err)
		}
	}
	c.Database, err = database.InFront(ctx, l, p, database.Server{Host: service.Spec.ClusterIP, Primary: c.addressOfPrimary})
	return c, err
}

func (c *Cluster) deployInstances(ctx context.Context) error {
	nodes, err := c.makeFolders(ctx)
	if err != nil {
		return err
	}
	err = database.Apply(ctx, c.lab, templates, "cluster.yaml", struct {
		Options
		Cluster, Image, Folder string
		Nodes                  []string
		Role, Password         string
	}{c.options, Name, Image, c.folder(), nodes, role, verifier()})
	if err != nil {
		return err
	}
	if _, err := database.AwaitReady(ctx, c.lab, c.options.Namespace, c.labels(), c.options.Instances); err != nil {
		return err
	}
	return c.AwaitStreaming(ctx)
}

// makeFolders makes the folders of the instances' data on all nodes, and returns the nodes' names.
func (c *Cluster) makeFolders(ctx context.Context) (nodes []string, err error) {
	list, err := c.lab.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "group=" + c.options.Group})
	if err != nil {
		return nil, err
	}
	for _, node := range list.Items {
		command, err := c.lab.Inside(ctx, node.Name, "mkdir", "-p", "-m", "777", c.folder())
		if err != nil {
			return nil, err
		}
		if said, err := command.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a folder on %s: %w\n%s", node.Name, err, said)
		}
		nodes = append(nodes, node.Name)
	}
	return nodes, nil
}

func (c *Cluster) folder() string { return "/var/lib/" + c.options.Namespace }

func (c *Cluster) labels() labels.Set {
	return labels.Set{"cnpg.io/cluster": Name, "cnpg.io/podRole": "instance"}
}

func (c *Cluster) members() database.Members {
	return database.Members{Lab: c.lab, Namespace: c.options.Namespace, Labels: c.labels()}
}

// Image returns the name of the instances' image. It has pgbench too.
func (c *Cluster) Image() string { return Image }

// Status is a part of a Cluster's status (https://cloudnative-pg.io/documentation/1.30/cloudnative-pg.v1/#clusterstatus).
type Status struct {
	CurrentPrimary string
	TargetPrimary  string
	Phase          string
}

func (c *Cluster) path() string {
	return "/apis/postgresql.cnpg.io/v1/namespaces/" + c.options.Namespace + "/clusters/" + Name
}

// Status returns the cluster's status.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	text, err := c.lab.Client().CoreV1().RESTClient().Get().AbsPath(c.path()).DoRaw(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("read the cluster: %w", err)
	}
	var object struct{ Status Status }
	err = json.Unmarshal(text, &object)
	return object.Status, err
}

// Members returns the instances' pods, in any state.
func (c *Cluster) Members(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.lab.Client().CoreV1().Pods(c.options.Namespace).List(ctx, metav1.ListOptions{LabelSelector: c.labels().String()})
	if err != nil {
		return nil, fmt.Errorf("list the instances: %w", err)
	}
	return list.Items, nil
}

func (c *Cluster) member(ctx context.Context, name string) (corev1.Pod, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return corev1.Pod{}, err
	}
	i := slices.IndexFunc(members, func(p corev1.Pod) bool { return p.Name == name })
	if i < 0 {
		return corev1.Pod{}, fmt.Errorf("no instance is called %q: %s", name, database.Describe(members))
	}
	return members[i], nil
}

// LeaderName returns the name of the primary.
func (c *Cluster) LeaderName(ctx context.Context) (string, error) {
	status, err := c.Status(ctx)
	return status.CurrentPrimary, err
}

// NodeOfLeader returns the name of the primary's node.
func (c *Cluster) NodeOfLeader(ctx context.Context) (string, error) {
	pod, err := c.leader(ctx)
	return pod.Spec.NodeName, err
}

func (c *Cluster) addressOfPrimary(ctx context.Context) (string, error) {
	pod, err := c.leader(ctx)
	return pod.Status.PodIP, err
}

func (c *Cluster) leader(ctx context.Context) (corev1.Pod, error) {
	name, err := c.LeaderName(ctx)
	if err != nil {
		return corev1.Pod{}, err
	}
	return c.member(ctx, name)
}

// Candidate returns the name of an instance that is not the primary.
func (c *Cluster) Candidate(ctx context.Context) (string, error) {
	primary, err := c.LeaderName(ctx)
	if err != nil {
		return "", err
	}
	members, err := c.Members(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(members, func(p corev1.Pod) bool { return p.Name != primary && database.IsReady(p) })
	if i < 0 {
		return "", fmt.Errorf("no other instance is ready: %s", database.Describe(members))
	}
	return members[i].Name, nil
}

// AwaitStreaming waits until all instances but the primary stream from it.
func (c *Cluster) AwaitStreaming(ctx context.Context) error {
	return c.members().AwaitStreaming(ctx, c.options.Instances-1, c.addressOfPrimary, c.Candidate)
}
