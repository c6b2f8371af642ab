package config

import (
	"crypto/x509"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// The names of phases that mean something. Workloads takes the pods that no phase matches, and therefore has no match of
// its own. If the file's phases lack it, it is put before Critical, or else last: pods that nobody named go after those
// that somebody did, and before the system's own.
const (
	Workloads = "workloads"
	Critical  = "critical"
)

// Phase is one step of the order of leaving.
type Phase struct {
	Name      string
	Match     Match         // empty for Workloads, and for a phase whose escort recognises its pods
	PGBouncer *PGBouncer    // how its poolers are escorted; nil: they are not
	Settle    time.Duration // how long to let things be after a phase that had pods
	Timeout   time.Duration // after which it no longer holds back the next phase
}

// Match says which pods belong to a phase: those that meet every condition that is set.
type Match struct {
	Selector        labels.Selector // nil: not a condition
	Namespaces      Globs
	PriorityClasses []string
}

// Empty tells whether no condition is set.
func (m Match) Empty() bool {
	return m.Selector == nil && len(m.Namespaces) == 0 && len(m.PriorityClasses) == 0
}

// Matches tells whether a pod meets every condition that is set. An empty Match takes no pod.
func (m Match) Matches(namespace, priorityClass string, podLabels map[string]string) bool {
	return !m.Empty() &&
		(m.Selector == nil || m.Selector.Matches(labels.Set(podLabels))) &&
		(len(m.Namespaces) == 0 || m.Namespaces.Match(namespace)) &&
		(len(m.PriorityClasses) == 0 || slices.Contains(m.PriorityClasses, priorityClass))
}

// Globs are names, or globs as of path.Match: an asterisk stops at a slash.
type Globs []string

// Match tells whether one of them is or matches the name.
func (g Globs) Match(name string) bool {
	return slices.ContainsFunc(g, func(glob string) bool {
		matched, _ := path.Match(glob, name) // a bad glob was a fault
		return matched
	})
}

// Exact are those that are names and no globs.
func (g Globs) Exact() []string {
	return slices.DeleteFunc(slices.Clone(g), func(glob string) bool { return strings.ContainsAny(glob, `*?[\`) })
}

// PGBouncer is how poolers are escorted, and how their admin console is reached.
type PGBouncer struct {
	Strategy   Strategy
	Timeout    time.Duration // of one pod's escort
	ConnectVia ConnectVia
	Port       int        // of the console; zero: the pod's own container port
	Secret     *SecretRef // the console's credentials in Kubernetes; nil: none there
	SecretARN  string     // or in Secrets Manager; empty: none there
	TLS        string     // see TLSDisable

	ServerName string         // in the console's certificate, for TLSVerifyFull
	RootCAs    *x509.CertPool // that may have signed it, for TLSVerifyFull
}

// Strategy is how a pooler is made to leave.
type Strategy string

// The strategies.
const (
	StrategyAuto  Strategy = "auto"  // evict, or surge where a budget can never allow an eviction
	StrategyEvict Strategy = "evict" // empty it, then evict it
	StrategySurge Strategy = "surge" // have it replaced elsewhere first
)

// ConnectVia is the way to a pod's port.
type ConnectVia string

// The ways.
const (
	ViaPodIP       ConnectVia = "podIP"
	ViaPortForward ConnectVia = "portForward"
)

// The values of tls, in libpq's words: https://www.postgresql.org/docs/current/libpq-ssl.html.
const (
	TLSDisable    = "disable"
	TLSPrefer     = "prefer"
	TLSRequire    = "require"
	TLSVerifyFull = "verify-full"
)

// SecretRef names two keys of a Kubernetes Secret.
type SecretRef struct {
	Namespace, Name      string
	UserKey, PasswordKey string
}
