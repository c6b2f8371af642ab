package config

import (
	"crypto/x509"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// The phase names with a meaning. Workloads takes the pods that no phase matches, and therefore has no match of its own. If
// the file's phases lack it, it goes before Critical, or else last: unmatched pods leave after matched ones, and before
// system pods.
const (
	Workloads = "workloads"
	Critical  = "critical"
)

// Phase is one step of the drain order.
type Phase struct {
	Name      string
	Match     Match         // empty for Workloads, and for a phase whose escort recognizes its pods
	PGBouncer *PGBouncer    // the settings of its escort; nil: another escort, or none
	Postgres  *Postgres     // the settings of its escort; nil: another escort, or none
	Settle    time.Duration // pause after a phase that had pods
	Timeout   time.Duration // after which the next phase starts anyway
}

// HasEscort reports whether an escort gets the phase's pods off the node.
func (p Phase) HasEscort() bool { return p.PGBouncer != nil || p.Postgres != nil }

// Match selects the pods of a phase. A pod must meet every condition that is set.
type Match struct {
	Selector        labels.Selector // nil: not a condition
	Namespaces      Globs
	PriorityClasses []string
}

// Empty reports whether no condition is set.
func (m Match) Empty() bool {
	return m.Selector == nil && len(m.Namespaces) == 0 && len(m.PriorityClasses) == 0
}

// Matches reports whether a pod meets every condition that is set. An empty Match matches no pod.
func (m Match) Matches(namespace, priorityClass string, podLabels map[string]string) bool {
	return !m.Empty() &&
		(m.Selector == nil || m.Selector.Matches(labels.Set(podLabels))) &&
		(len(m.Namespaces) == 0 || m.Namespaces.Match(namespace)) &&
		(len(m.PriorityClasses) == 0 || slices.Contains(m.PriorityClasses, priorityClass))
}

// Allows reports whether a pod meets every condition that is set, if any is. It narrows what an escort recognizes.
func (m Match) Allows(namespace, priorityClass string, podLabels map[string]string) bool {
	return m.Empty() || m.Matches(namespace, priorityClass, podLabels)
}

// PoolerNamespaces returns the namespaces that the file names for poolers: those of their phases, and those of Secrets with a login for them. A
// glob names none: not all namespaces are looked through.
func (c *Config) PoolerNamespaces() (names []string) {
	for _, phase := range c.Phases {
		if phase.PGBouncer != nil {
			names = append(names, phase.Match.Namespaces.Exact()...)
		}
		if console := phase.EscortConsole(); console != nil && console.Secret != nil {
			names = append(names, console.Secret.Namespace)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Globs are names, or globs of path.Match: an asterisk does not match a slash.
type Globs []string

// Match reports whether one of them equals or matches the name.
func (g Globs) Match(name string) bool {
	return slices.ContainsFunc(g, func(glob string) bool {
		matched, _ := path.Match(glob, name) // reading rejected bad globs
		return matched
	})
}

// Exact returns the names, without the globs.
func (g Globs) Exact() []string {
	return slices.DeleteFunc(slices.Clone(g), func(glob string) bool { return strings.ContainsAny(glob, `*?[\`) })
}

// PGBouncer has the settings of the escort of poolers.
type PGBouncer struct {
	Strategy Strategy
	Timeout  time.Duration // of the escort of one pod
	Console
}

// Console has the settings of the connection to the admin consoles of poolers.
type Console struct {
	ConnectVia ConnectVia
	Port       int        // of the console; zero: the container port of the pod
	Secret     *SecretRef // console credentials in Kubernetes; nil: none
	SecretARN  string     // console credentials in Secrets Manager; empty: none
	Namespaces Globs      // of the pods that get the credentials of SecretARN
	TLS        string     // see TLSDisable

	ServerName string         // in the console's certificate, for TLSVerifyFull
	RootCAs    *x509.CertPool // CAs of that certificate, for TLSVerifyFull
}

// HasLogin reports whether the file names credentials.
func (c Console) HasLogin() bool { return c.Secret != nil || c.SecretARN != "" }

// Postgres has the settings of the escort of PostgreSQL primaries. Console is that of the poolers in front of them.
type Postgres struct {
	Strategy     PostgresStrategy
	MaxLag       int64         // how far a replica may lag to become primary, in bytes
	PauseTimeout time.Duration // how long poolers may hold clients
	Poolers      Poolers
	ScopeLabel   string     // the label that has the name of a Patroni cluster, where no operator chooses it
	RESTSecret   *SecretRef // credentials of Patroni's HTTP interface; nil: none
	Console
}

// PostgresStrategy is how a primary gets off its node.
type PostgresStrategy string

// The strategies.
const (
	StrategySwitchover PostgresStrategy = "switchover" // pause poolers, request a switchover, resume
	StrategyOperator   PostgresStrategy = "operator"   // wait until the operator has moved it
	StrategyPlain      PostgresStrategy = "plain"      // evict it like any other pod
)

// Poolers says which poolers are paused while a primary moves.
type Poolers string

// Which ones.
const (
	PoolersAuto Poolers = "auto" // those that are found in front of the primary
	PoolersNone Poolers = "none" // none: clients see a switchover
)

// Strategy is how a pooler is drained.
type Strategy string

// The strategies.
const (
	StrategyAuto  Strategy = "auto"  // evict, or surge where a PDB can never allow an eviction
	StrategyEvict Strategy = "evict" // let its transactions finish, then evict it
	StrategySurge Strategy = "surge" // start a replacement on another node first
)

// ConnectVia is how the function connects to a pod.
type ConnectVia string

// The ways to connect. The default is ViaPodIP where the stack has a VPC, and ViaPortForward elsewhere.
const (
	ViaPodIP       ConnectVia = "podIP"       // directly; needs a route to pods
	ViaPortForward ConnectVia = "portForward" // through the API server
)

// The values of tls, named as in libpq: https://www.postgresql.org/docs/current/libpq-ssl.html.
const (
	TLSDisable    = "disable"
	TLSPrefer     = "prefer"
	TLSRequire    = "require"
	TLSVerifyFull = "verify-full"
)

// SecretRef names a Kubernetes Secret and two of its keys.
type SecretRef struct {
	Namespace, Name      string
	UserKey, PasswordKey string
}
