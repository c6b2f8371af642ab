package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

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
	c.Groups.read(m.get("autoScalingGroups").required())
	c.readMode(m.get("mode"))
	m.get("lifecycle").section(c.Lifecycle.read)
	m.get("drain").section(c.Drain.read)
	stack := m.get("stack")
	stack.section(c.Stack.read)
	if phases := m.get("phases"); phases.isSet() {
		c.Phases = readPhases(phases, network{stack: stack.isSet(), vpc: c.Stack.VPC != nil})
	}
	m.get("allowManualDrain").flag(&c.AllowManualDrain)
	c.chooseConnections()
}

// network is what the file says about the function's network.
type network struct {
	stack bool // the section stack is written: the stack deploys the function
	vpc   bool // the function is in a VPC
}

// chooseConnections sets how the function connects to consoles where the file does not say so. Outside a VPC it has no route to pods.
// The escort of primaries uses the consoles of poolers. Without credentials of its own, it has those of the escort of poolers.
func (c *Config) chooseConnections() {
	usual := ViaPortForward
	if c.Stack.VPC != nil {
		usual = ViaPodIP
	}
	for i := range c.Phases {
		if console := c.Phases[i].EscortConsole(); console != nil {
			console.ConnectVia = cmp.Or(console.ConnectVia, usual)
			if console.SecretARN != "" {
				console.Namespaces = slices.Clone(c.Phases[i].Match.Namespaces)
			}
		}
	}
	c.bindLoginsOfDatabases()
	poolers := slices.IndexFunc(c.Phases, func(p Phase) bool { return p.PGBouncer != nil && p.PGBouncer.HasLogin() })
	for _, phase := range c.Phases {
		if poolers >= 0 && phase.Postgres != nil && !phase.Postgres.HasLogin() {
			via := phase.Postgres.ConnectVia
			phase.Postgres.Console = c.Phases[poolers].PGBouncer.Console
			phase.Postgres.ConnectVia = via
		}
	}
}

// bindLoginsOfDatabases lets a login of a phase for databases, of AWS Secrets Manager, be sent to poolers of other phases too: poolers are mostly
// not in the namespaces of the databases.
func (c *Config) bindLoginsOfDatabases() {
	for i := range c.Phases {
		databases := c.Phases[i].Postgres
		if databases == nil || databases.SecretARN == "" {
			continue
		}
		for _, phase := range c.Phases {
			if phase.PGBouncer != nil {
				databases.Namespaces = append(databases.Namespaces, phase.Match.Namespaces...)
			}
		}
	}
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
	m.get("hook").form(&l.Hook, "a hook name", `^[A-Za-z0-9_/-]{1,255}$`)
	choose(m.get("onFailure"), &l.OnFailure, Continue, Abandon)
	m.get("manageHooks").flag(&l.ManageHooks)
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
	m.get("onScheduledChange").flag(&d.OnScheduledChange)
	if len(*m.errs) == before {
		d.compare(m)
	}
}

// compare compares the durations. A timeout that exceeds the whole drain is an error only if the file sets it. The deadline
// cuts the defaults short anyway.
func (d *Drain) compare(m *mapping) {
	m.get("completionReserve").shorterThanDrain(d.MaxDuration, d.CompletionReserve)
	if v := m.get("nodeJoinTimeout"); v.isSet() {
		v.shorterThanDrain(d.MaxDuration, d.NodeJoinTimeout)
	}
	if v := m.get("volumeDetachTimeout"); v.isSet() {
		v.shorterThanDrain(d.MaxDuration, d.VolumeDetachTimeout)
	}
}

func readPhases(v value, n network) []Phase {
	var phases []Phase
	for _, item := range v.items() {
		item.mapping(func(m *mapping) {
			phase := Phase{Timeout: defaultPhaseTimeout}
			phase.read(m, n)
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

// phaseName is what reports, metrics and the descriptions of security group rules can carry. EC2's descriptions allow the fewest signs:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpRange.html.
const phaseName = `^[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}$`

func (p *Phase) read(m *mapping, n network) {
	match := m.get("match")
	m.get("name").required().form(&p.Name, "a phase name of at most 63 letters, digits, spaces and _.-", phaseName)
	match.section(p.Match.read)
	m.get("escort").section(func(m *mapping) { p.readEscort(m, n) })
	m.get("settle").duration(&p.Settle)
	m.get("timeout").positiveDuration(&p.Timeout)
	switch {
	case p.Name == Workloads && match.isSet():
		match.errorf("not allowed in phase %s, which takes the pods that no other phase matches", Workloads)
	case p.Name == Workloads && p.HasEscort():
		m.get("escort").errorf("not allowed in phase %s, which takes the pods that no other phase matches: give the escort a phase of its own", Workloads)
	case p.Name != Workloads && !match.isSet() && !p.HasEscort():
		match.errorf("required, except in phase %s and in a phase with an escort", Workloads)
	case p.HasEscort() && p.EscortConsole().Secret == nil && p.EscortConsole().SecretARN != "" && len(p.Match.Namespaces) == 0:
		match.errorf("namespaces: required with secretArn: only poolers in these namespaces get the credentials")
	}
}

func (match *Match) read(m *mapping) {
	selector, namespaces, classes := m.get("labelSelector"), m.get("namespaces"), m.get("priorityClassNames")
	selector.checked(match.setSelector)
	namespaces.globs(&match.Namespaces, matching("a namespace or a glob of namespaces", `^[a-z0-9*?^\\[\]-]{1,253}$`))
	classes.names(&match.PriorityClasses, matching("a priority class name", objectName))
	if !selector.isSet() && !namespaces.isSet() && !classes.isSet() {
		m.errorf("must have a condition: labelSelector, namespaces or priorityClassNames")
	}
}

// The forms of names in Kubernetes: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/. They become parts of paths.
const (
	objectName    = `^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`
	namespaceName = `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`
	labelKey      = `^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`
	secretKey     = `^[A-Za-z0-9._-]{1,253}$`
	hostName      = `^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$`
)

func (match *Match) setSelector(text string) (err error) {
	if match.Selector, err = labels.Parse(text); err != nil {
		return fmt.Errorf("not a label selector: %w", err)
	}
	if match.Selector.Empty() {
		return errors.New("selects every pod: " + text)
	}
	return nil
}
