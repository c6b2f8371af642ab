package doctor

import (
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/kube"
	"quiesce/internal/postgres"
	"quiesce/internal/termination"
)

// Snapshot is what was read of a cluster and its account. What could not be read is empty, and Unread says so.
type Snapshot struct {
	Now        time.Time
	Config     config.Config // of quiesce; the defaults without a file
	Configured bool          // there is a file
	Version    string        // of what examines it

	Nodes      []corev1.Node
	Pods       []corev1.Pod
	PDBs       []policyv1.PodDisruptionBudget
	Webhooks   []Webhook
	Services   []corev1.Service
	ConfigMaps []corev1.ConfigMap // of namespaces with poolers
	Volumes    []corev1.PersistentVolume
	Databases  []Database

	AWS       bool   // the account was read
	Region    string // that was read
	Groups    []asg.Settings
	Instances map[string]termination.EC2Instance // of nodes, by instance ID

	Install  Install
	Function *Function // nil: it is not deployed, or unknown
	Network  *Network  // nil: there is no function, or it is unknown

	Unread []Unread
}

// OtherPods is the part that a person with permissions in one namespace cannot read.
const OtherPods = "pods of other namespaces"

// Incomplete reports whether nodes or pods could not be read: then nothing is known. About one namespace much is known without nodes.
func (s Snapshot) Incomplete(namespace string) bool {
	return slices.ContainsFunc(s.Unread, func(u Unread) bool { return u.Part == "nodes" && namespace == "" || u.Part == "pods" })
}

// Unread is a part that could not be read.
type Unread struct {
	Part  string // such as nodes
	Error string
	Fix   string
}

// Webhook is an admission webhook.
type Webhook struct {
	Name       string
	FailClosed bool
	Service    string // namespace/name; empty: outside of the cluster
	Rules      []admissionv1.RuleWithOperations

	// What narrows it. Nil selectors select everything.
	Namespaces, Objects *metav1.LabelSelector
	Conditional         bool // it has matchConditions
}

// Database is what is known of one database cluster.
type Database struct {
	postgres.Facts
	Failure string // why it is not known; empty: it is
}

// Install is what of quiesce is in the cluster.
type Install struct {
	Namespace  bool
	Missing    []Permission // that the group quiesce lacks
	Policies   []string     // admission policies that are missing
	Unfinished []kube.Unfinished
	Leases     []termination.LeaseInfo
}

// Function is the function as Lambda describes it.
type Function struct {
	Name        string
	Invoked     string // the name by which people invoke it: with its alias
	Version     string // that was deployed last; empty: unknown
	Problem     string // why it cannot run; empty: it can
	DLQMessages int    // messages in its DLQ
}
