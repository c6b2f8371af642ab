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

func (c *Config) readFile(data []byte, errs *Errors) {
	before := len(*errs)
	file := document(bytes.NewReader(data), errs)
	if len(*errs) > before {
		return // an unreadable file has no missing keys
	}
	file.mapping(c.read)
}

func (c *Config) read(m *mapping) {
	c.readCluster(m.get("cluster"))
	m.get("autoScalingGroups").required().globs(&c.Groups)
	c.readMode(m.get("mode"))
	m.get("lifecycle").section(c.Lifecycle.read)
	m.get("drain").section(c.Drain.read)
	if phases := m.get("phases"); phases.isSet() {
		c.Phases = readPhases(phases)
	}
	m.get("allowManualDrain").flag(&c.AllowManualDrain)
	m.get("stack").section(c.Stack.read)
}

// readMode requires a mode, and says which ones there are.
func (c *Config) readMode(v value) {
	modes := []Mode{ModeShadow, ModeDrain}
	if !v.isSet() {
		v.errorf("required: %s", oneOf(modes))
	}
	choose(v, &c.Mode, modes...)
}

// readCluster sets the cluster's name, unless the environment has set it.
func (c *Config) readCluster(v value) {
	inFile := Config{}
	v.checked(inFile.setCluster)
	if c.Cluster == "" {
		c.Cluster = inFile.Cluster
	}
	if c.Cluster == "" && !v.isSet() {
		v.errorf("required, because CLUSTER_NAME is not set")
	}
}

func (l *Lifecycle) read(m *mapping) {
	// Auto Scaling defines the form: https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHook.html.
	m.get("hook").form(&l.Hook, "a hook name", `^[A-Za-z0-9_/-]+$`)
	choose(m.get("onFailure"), &l.OnFailure, Continue, Abandon)
}

// maxConcurrentEvictions exceeds the number of pods that fit on a node.
const maxConcurrentEvictions = 1000

func (d *Drain) read(m *mapping) {
	before := len(*m.errs)
	m.get("maxDuration").positiveDuration(&d.MaxDuration)
	m.get("completionReserve").duration(&d.CompletionReserve)
	m.get("maxConcurrentEvictions").number(&d.MaxConcurrentEvictions, 1, maxConcurrentEvictions)
	m.get("nodeJoinTimeout").duration(&d.NodeJoinTimeout)
	m.get("volumeDetachTimeout").duration(&d.VolumeDetachTimeout)
	choose(m.get("onDeadline"), &d.OnDeadline, Force, Keep)
	m.get("onRebalanceRecommendation").flag(&d.OnRebalanceRecommendation)
	m.get("onSpotInterruption").flag(&d.OnSpotInterruption)
	if len(*m.errs) == before {
		d.compare(m)
	}
}

// compare compares the durations. A timeout that exceeds the whole drain is an error only if the file sets it. The deadline
// cuts the defaults short anyway.
func (d *Drain) compare(m *mapping) {
	m.get("completionReserve").shorterThan("drain.maxDuration", d.MaxDuration, d.CompletionReserve)
	if v := m.get("nodeJoinTimeout"); v.isSet() {
		v.shorterThan("drain.maxDuration", d.MaxDuration, d.NodeJoinTimeout)
	}
	if v := m.get("volumeDetachTimeout"); v.isSet() {
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
				m.get("name").errorf("two phases have this name: %s", phase.Name)
			}
			phases = append(phases, phase)
		})
	}
	return withWorkloads(phases)
}

// withWorkloads adds the phase for pods that no phase matches, unless the file has it.
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
	m.get("timeout").positiveDuration(&p.Timeout)
	switch {
	case p.Name == Workloads && match.isSet():
		match.errorf("not allowed in phase %s, which takes the pods that no other phase matches", Workloads)
	case p.Name != Workloads && !match.isSet() && p.PGBouncer == nil:
		match.errorf("required, except in phase %s and in a phase with an escort", Workloads)
	case p.PGBouncer != nil && p.PGBouncer.Secret == nil && p.PGBouncer.SecretARN != "" && len(p.Match.Namespaces) == 0:
		match.errorf("namespaces: required with secretArn: only poolers in these namespaces get the credentials")
	}
}

func (match *Match) read(m *mapping) {
	selector, namespaces, classes := m.get("labelSelector"), m.get("namespaces"), m.get("priorityClassNames")
	selector.checked(match.setSelector)
	namespaces.globs(&match.Namespaces)
	classes.names(&match.PriorityClasses, anyName)
	if !selector.isSet() && !namespaces.isSet() && !classes.isSet() {
		m.errorf("must have a condition: labelSelector, namespaces or priorityClassNames")
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
		m.errorf("must be {pgbouncer: ...}: there is no other escort")
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
	m.get("timeout").positiveDuration(&b.Timeout)
	choose(m.get("connectVia"), &b.ConnectVia, ViaPodIP, ViaPortForward)
	m.get("port").number(&b.Port, 1, 65535)
	b.readTLS(m)
	ref, arn := m.get("secretRef"), m.get("secretArn")
	if ref.section(b.readSecretRef); ref.isSet() && arn.isSet() {
		arn.errorf("not allowed with secretRef: the credentials are in one place")
	}
	arn.checked(func(text string) error {
		if !secretARN().MatchString(text) {
			return errors.New("not a secret ARN: " + text)
		}
		b.SecretARN = text
		return nil
	})
}

// readTLS reads how TLS is verified. It rejects those settings where nothing would be verified.
func (b *PGBouncer) readTLS(m *mapping) {
	tls := m.get("tls")
	choose(tls, &b.TLS, TLSDisable, TLSPrefer, TLSRequire, TLSVerifyFull)
	name, bundle := m.get("serverName"), m.get("caBundle")
	if b.TLS == TLSVerifyFull {
		name, bundle = name.required(), bundle.required()
	} else if name.isSet() || bundle.isSet() {
		tls.errorf("must be verify-full with serverName or caBundle: %s verifies nothing", b.TLS)
	}
	name.text(&b.ServerName)
	bundle.checked(func(pem string) error {
		if b.RootCAs = x509.NewCertPool(); !b.RootCAs.AppendCertsFromPEM([]byte(pem)) {
			return errors.New("no PEM certificate")
		}
		return nil
	})
}

// readSecretRef reads the names of a Secret and its keys. The default keys are those of the type kubernetes.io/basic-auth:
// https://kubernetes.io/docs/concepts/configuration/secret/#basic-authentication-secret.
func (b *PGBouncer) readSecretRef(m *mapping) {
	b.Secret = &SecretRef{UserKey: "username", PasswordKey: "password"}
	m.get("namespace").required().text(&b.Secret.Namespace)
	m.get("name").required().text(&b.Secret.Name)
	m.get("userKey").text(&b.Secret.UserKey)
	m.get("passwordKey").text(&b.Secret.PasswordKey)
}
