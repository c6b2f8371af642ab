package config

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
)

func (c *Config) readFile(data []byte, faults *Errors) {
	known := len(*faults)
	file := document(bytes.NewReader(data), faults)
	if len(*faults) > known {
		return // what cannot be parsed has no keys to be missing
	}
	file.mapping(c.read)
}

func (c *Config) read(m *mapping) {
	c.readCluster(m.get("cluster"))
	m.get("autoScalingGroups").required().globs(&c.Groups)
	choose(m.get("mode"), &c.Mode, ModeDrain, ModeShadow)
	m.get("lifecycle").section(c.Lifecycle.read)
	m.get("drain").section(c.Drain.read)
	if phases := m.get("phases"); phases.given() {
		c.Phases = readPhases(phases)
	}
	m.get("allowManualDrain").flag(&c.AllowManualDrain)
	m.get("stack").section(c.Stack.read)
}

// readCluster takes the cluster's name, unless the environment has told it.
func (c *Config) readCluster(v value) {
	inFile := Config{}
	v.checked(inFile.setCluster)
	if c.Cluster == "" {
		c.Cluster = inFile.Cluster
	}
	if c.Cluster == "" && !v.given() {
		v.fault("missing, and CLUSTER_NAME is not set")
	}
}

func (l *Lifecycle) read(m *mapping) {
	// The form is Auto Scaling's: https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHook.html.
	m.get("hook").form(&l.Hook, "the name of a hook", `^[A-Za-z0-9_/-]+$`)
	choose(m.get("onFailure"), &l.OnFailure, Continue, Abandon)
}

// mostConcurrent is more evictions at once than a node has room for pods.
const mostConcurrent = 1000

func (d *Drain) read(m *mapping) {
	before := len(*m.faults)
	m.get("maxDuration").span(&d.MaxDuration)
	m.get("reserve").duration(&d.CompletionReserve)
	m.get("concurrency").number(&d.MaxConcurrentEvictions, 1, mostConcurrent)
	m.get("joinGrace").duration(&d.NodeJoinTimeout)
	m.get("volumeDetach").duration(&d.VolumeDetachTimeout)
	choose(m.get("onDeadline"), &d.OnDeadline, Force, Keep)
	m.get("onRebalanceRecommendation").flag(&d.OnRebalanceRecommendation)
	if len(*m.faults) == before {
		d.check(m)
	}
}

// check compares the times. Waits that are longer than the whole drain are a fault only if somebody asked for them: the
// defaults are cut short by the deadline as well as anything.
func (d *Drain) check(m *mapping) {
	m.get("reserve").shorterThan("drain.maxDuration", d.MaxDuration, d.CompletionReserve)
	if v := m.get("joinGrace"); v.given() {
		v.shorterThan("drain.maxDuration", d.MaxDuration, d.NodeJoinTimeout)
	}
	if v := m.get("volumeDetach"); v.given() {
		v.shorterThan("drain.maxDuration", d.MaxDuration, d.VolumeDetachTimeout)
	}
}

func readPhases(v value) []Phase {
	var phases []Phase
	for _, item := range v.items() {
		item.mapping(func(m *mapping) {
			phase := Phase{Timeout: defaultPhaseTimeout}
			phase.read(m)
			if slices.ContainsFunc(phases, phase.sameName) {
				m.get("name").fault("given to two phases: %s", phase.Name)
			}
			phases = append(phases, phase)
		})
	}
	return withWorkloads(phases)
}

// withWorkloads sees that there is a phase for the pods that no phase matches.
func withWorkloads(phases []Phase) []Phase {
	if slices.ContainsFunc(phases, workloads().sameName) {
		return phases
	}
	i := slices.IndexFunc(phases, Phase{Name: Critical}.sameName)
	if i < 0 {
		i = len(phases)
	}
	return slices.Insert(phases, i, workloads())
}

func (p Phase) sameName(other Phase) bool { return p.Name != "" && p.Name == other.Name }

func (p *Phase) read(m *mapping) {
	match := m.get("match")
	m.get("name").required().text(&p.Name)
	match.section(p.Match.read)
	m.get("escort").section(p.readEscort)
	m.get("settle").duration(&p.Settle)
	m.get("timeout").span(&p.Timeout)
	switch {
	case p.Name == Workloads && match.given():
		match.fault("not for the phase %s, which takes the pods that no other phase matches", Workloads)
	case p.Name != Workloads && !match.given() && p.PGBouncer == nil:
		match.fault("missing: only the phase %s and a phase with an escort can do without", Workloads)
	case p.PGBouncer != nil && p.PGBouncer.Secret == nil && p.PGBouncer.SecretARN != "" && len(p.Match.Namespaces) == 0:
		match.fault("namespaces: missing: credentials of Secrets Manager are for the poolers of these namespaces, and no others")
	}
}

func (match *Match) read(m *mapping) {
	selector, namespaces, classes := m.get("labelSelector"), m.get("namespaces"), m.get("priorityClassNames")
	selector.checked(match.setSelector)
	namespaces.globs(&match.Namespaces)
	classes.names(&match.PriorityClasses, anyName)
	if !selector.given() && !namespaces.given() && !classes.given() {
		m.fault("must have a condition: labelSelector, namespaces or priorityClassNames")
	}
}

func anyName(string) error { return nil }

func (match *Match) setSelector(text string) (err error) {
	if match.Selector, err = labels.Parse(text); err != nil {
		return fmt.Errorf("not a label selector: %w", err)
	}
	if match.Selector.Empty() {
		return errors.New("selects every pod: " + text)
	}
	return nil
}

func (p *Phase) readEscort(m *mapping) {
	pgbouncer := m.get("pgbouncer")
	if !m.has("pgbouncer") {
		m.fault("must be {pgbouncer: ...}: there is no other escort")
		return
	}
	p.PGBouncer = defaultPGBouncer()
	pgbouncer.section(p.PGBouncer.read)
}

// secretARN is the form of a secret's ARN: https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html.
var secretARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:[^:]+:secretsmanager:[^:]+:\d{12}:secret:[^:]+$`)
})

func (b *PGBouncer) read(m *mapping) {
	choose(m.get("strategy"), &b.Strategy, StrategyAuto, StrategyEvict, StrategySurge)
	m.get("timeout").span(&b.Timeout)
	choose(m.get("via"), &b.ConnectVia, ViaPodIP, ViaPortForward)
	m.get("port").number(&b.Port, 1, 65535)
	b.readTLS(m)
	ref, arn := m.get("secretRef"), m.get("secretArn")
	if ref.section(b.readSecretRef); ref.given() && arn.given() {
		arn.fault("given beside secretRef: the credentials are in one place or the other")
	}
	arn.checked(func(text string) error {
		if !secretARN().MatchString(text) {
			return errors.New("not the ARN of a secret: " + text)
		}
		b.SecretARN = text
		return nil
	})
}

// readTLS takes what a verified connection is verified by, and refuses it where nothing would be.
func (b *PGBouncer) readTLS(m *mapping) {
	tls := m.get("tls")
	choose(tls, &b.TLS, TLSDisable, TLSPrefer, TLSRequire, TLSVerifyFull)
	name, bundle := m.get("serverName"), m.get("caBundle")
	if b.TLS == TLSVerifyFull {
		name, bundle = name.required(), bundle.required()
	} else if name.given() || bundle.given() {
		tls.fault("serverName and caBundle are for verify-full, and nothing is verified by %s", b.TLS)
	}
	name.text(&b.ServerName)
	bundle.checked(func(pem string) error {
		if b.RootCAs = x509.NewCertPool(); !b.RootCAs.AppendCertsFromPEM([]byte(pem)) {
			return errors.New("has no certificate in PEM")
		}
		return nil
	})
}

// readSecretRef takes the names of a Secret and its keys, which by default are those of the type kubernetes.io/basic-auth:
// https://kubernetes.io/docs/concepts/configuration/secret/#basic-authentication-secret.
func (b *PGBouncer) readSecretRef(m *mapping) {
	b.Secret = &SecretRef{UserKey: "username", PasswordKey: "password"}
	m.get("namespace").required().text(&b.Secret.Namespace)
	m.get("name").required().text(&b.Secret.Name)
	m.get("userKey").text(&b.Secret.UserKey)
	m.get("passwordKey").text(&b.Secret.PasswordKey)
}
