package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/config"
	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
)

var poolerChecks = []check{
	{"pooler-termination", (*view).poolerTerminations},
	{"pooler-spread", (*view).poolerSpread},
	{"pooler-settings", (*view).poolerSettings},
}

// escortSettings returns the settings of the first phase with an escort of poolers.
func (v *view) escortSettings() pooler.Settings {
	for _, phase := range v.Config.Phases {
		if phase.PGBouncer != nil {
			return pooler.Settings{PGBouncer: *phase.PGBouncer, PhaseTimeout: phase.Timeout}
		}
	}
	return pooler.Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: time.Minute}}
}

// poolerTerminations finds poolers that lose transactions or connections when a pod is terminated, as package pooler sees them.
func (v *view) poolerTerminations() (found []Finding) {
	settings := v.escortSettings()
	for _, w := range v.poolers() {
		first := w.pods[0]
		modes := v.iniOf(first).poolModes()
		selectors := escort.Selectors{Replicas: len(w.pods)}
		for _, warning := range pooler.AdvisePod(settings, first.escort, selectors, pooler.ImageVersion(first.escort), modes) {
			what, fix := splitAdvice(warning)
			found = append(found, Finding{
				Where: w.String(), Severity: Warning, What: what, Fix: fix,
				Cost: "when a pod is terminated, clients lose transactions or connections",
			})
		}
	}
	return found
}

// splitAdvice splits a warning into the problem and its last sentence, which says what to do.
func splitAdvice(warning string) (what, fix string) {
	at := strings.LastIndex(warning, ". ")
	if at < 0 {
		return warning, ""
	}
	return uncapital(warning[:at]), uncapital(strings.TrimSuffix(warning[at+2:], "."))
}

func uncapital(text string) string { return strings.ToLower(text[:1]) + text[1:] }

// poolerSpread finds poolers that go with one node or one zone.
func (v *view) poolerSpread() (found []Finding) {
	zones := len(v.zonesOf(v.openNodes()))
	for _, w := range v.poolers() {
		placed := 0
		for _, p := range w.pods {
			if p.Spec.NodeName != "" {
				placed++
			}
		}
		if placed < 2 {
			continue // the check pooler-termination names one that is alone; where others will be is not known yet
		}
		nodes := nodesOf(w.pods)
		f := Finding{
			Where: w.String(), Severity: Critical, What: fmt.Sprintf("all %d pods are on node %s", placed, named(nodes)),
			Cost: "when the node leaves, clients have no pooler until a new pod is Ready",
			Fix:  "spread them: topologySpreadConstraints with topologyKey kubernetes.io/hostname",
		}
		if len(nodes) > 1 {
			own := v.zonesOf(nodes)
			if zones < 2 || len(own) != 1 {
				continue
			}
			f.Severity, f.What = Warning, fmt.Sprintf("all %d pods are in zone %s", placed, own[0])
			f.Cost = "a rebalance or an outage of the zone takes all of them"
			f.Fix = "spread them: topologySpreadConstraints with topologyKey topology.kubernetes.io/zone"
		}
		f.Command = fmt.Sprintf("kubectl get pods -n %s -o wide", w.namespace)
		found = append(found, f)
	}
	return found
}

func (v *view) openNodes() (names []string) {
	for i := range v.Nodes {
		if kube.TakesPods(&v.Nodes[i]) {
			names = append(names, v.Nodes[i].Name)
		}
	}
	return names
}

const (
	// shortestWait is a query_wait_timeout with which a primary can move while its poolers hold clients: 30 s of pause, and 30 s to spare.
	shortestWait = 60
	// shortestQuery is such a query_timeout: 30 s of pause, and 5 s to spare.
	shortestQuery = 35
	// defaultMaxClients is pgbouncer's own max_client_conn (https://www.pgbouncer.org/config.html#max_client_conn).
	defaultMaxClients = 100
)

func (v *view) poolerSettings() (found []Finding) {
	for _, w := range v.poolers() {
		ini := v.iniOf(w.pods[0])
		add := func(severity Severity, what, cost, fix string) {
			found = append(found, Finding{Where: w.String(), Severity: severity, What: what, Cost: cost, Fix: fix})
		}
		if slices.Contains(ini.values("so_reuseport"), "1") {
			add(Warning, "so_reuseport = 1: several processes may share one port",
				"one of them is drained at most, and none before 1.23; the others abort their transactions",
				"run more pods of one process each")
		}
		if wait, set := ini.number("query_wait_timeout"); set && wait > 0 && wait < shortestWait {
			add(Warning, fmt.Sprintf("query_wait_timeout = %d", wait), "clients that wait while a primary moves get an error",
				fmt.Sprintf("set it to %d or more; the default is 120", shortestWait))
		}
		if limit, set := ini.number("query_timeout"); set && limit > 0 && limit < shortestQuery {
			add(Warning, fmt.Sprintf("query_timeout = %d", limit), "clients that wait while a primary moves are disconnected, or the primary does not move",
				fmt.Sprintf("set it to %d or more, or to 0; the default is 0", shortestQuery))
		}
		most, known := ini.number("max_client_conn")
		if _, complete := ini.own(); !known && complete {
			most, known = defaultMaxClients, true
		}
		if n := len(w.pods); known && n > 1 && most <= defaultMaxClients {
			add(Info, fmt.Sprintf("max_client_conn is %d: without one pod, the others take %d clients", most, most*(n-1)),
				"more clients than that get an error until the replacement is Ready", "raise max_client_conn to what all clients need")
		}
	}
	return found
}

// ini is the configuration of a pooler, as far as ConfigMaps and the environment have it.
type ini struct {
	texts []string
	env   map[string]string
}

// iniOf returns the configuration of a pooler: the ConfigMaps that it mounts, and its environment.
func (v *view) iniOf(p pod) ini {
	names := map[string]bool{}
	for _, volume := range p.Spec.Volumes {
		if volume.ConfigMap != nil {
			names[volume.ConfigMap.Name] = true
		}
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.ConfigMap != nil {
					names[source.ConfigMap.Name] = true
				}
			}
		}
	}
	found := ini{env: map[string]string{}}
	for _, m := range v.ConfigMaps {
		if m.Namespace != p.Namespace || !names[m.Name] {
			continue
		}
		for _, text := range m.Data {
			found.texts = append(found.texts, uncommented(text))
		}
	}
	slices.Sort(found.texts)
	for _, c := range p.Spec.Containers {
		found.addEnv(c.Env)
	}
	return found
}

// envPrefix is what images put before the name of a setting.
const envPrefix = "PGBOUNCER_"

func (i ini) addEnv(all []corev1.EnvVar) {
	for _, e := range all {
		if e.Value != "" {
			i.env[strings.ToLower(strings.TrimPrefix(e.Name, envPrefix))] = e.Value
		}
	}
}

var setting = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)(?:^|[ \t])(pool_mode|so_reuseport|query_wait_timeout|query_timeout|max_client_conn)[ \t]*=[ \t]*([A-Za-z0-9]+)`)
})

// values returns the values of a setting, of pgbouncer and of its databases.
func (i ini) values(name string) (found []string) {
	for _, text := range i.texts {
		for _, m := range setting().FindAllStringSubmatch(text, -1) {
			if m[1] == name {
				found = append(found, m[2])
			}
		}
	}
	if value := i.env[name]; value != "" {
		found = append(found, value)
	}
	return found
}

// own returns the texts without the settings of databases, users and peers. They are complete if they have pgbouncer's own section and
// include no other file. What they do not set then has its default. Other ConfigMaps say nothing of that, such as kube-root-ca.crt, which
// each pod mounts.
func (i ini) own() (own string, complete bool) {
	for _, text := range i.texts {
		section := ""
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "[") {
				section = line
				complete = complete || section == "[pgbouncer]"
			} else if section != "[databases]" && section != "[users]" && section != "[peers]" {
				own += line + "\n"
			}
		}
	}
	return own, complete && !strings.Contains(own, "%include")
}

// poolModes returns the pool modes, also the one that pgbouncer has if none is set: session
// (https://www.pgbouncer.org/config.html#pool_mode).
func (i ini) poolModes() []string {
	modes := i.values("pool_mode")
	if own, complete := i.own(); complete && i.env["pool_mode"] == "" && len(ini{texts: []string{own}}.values("pool_mode")) == 0 {
		modes = append(modes, "session")
	}
	return modes
}

// uncommented returns the text without the lines that are comments.
func uncommented(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); !strings.HasPrefix(trimmed, ";") && !strings.HasPrefix(trimmed, "#") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func (i ini) number(name string) (n int, set bool) {
	for _, value := range i.values(name) {
		if n, err := strconv.Atoi(value); err == nil {
			return n, true
		}
	}
	return 0, false
}
