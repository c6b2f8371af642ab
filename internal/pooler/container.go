package pooler

import (
	"cmp"
	"slices"
	"strings"

	"quiesce/internal/escort"
)

// defaultPort is pgbouncer's own default (https://www.pgbouncer.org/config.html#listen_port).
const defaultPort = 6432

const maxPort = 65535

// poolerNames are the names that charts and operators give pgbouncer's container.
var poolerNames = []string{"pgbouncer", "connection-pooler"}

// poolerOf returns the container in which pgbouncer runs: the one with one of its names, or whose name or image has pgbouncer's in it.
// Otherwise it is the first one. An exporter of metrics is named after pgbouncer too, and often comes first.
func poolerOf(p escort.Pod) escort.Container {
	for _, is := range []func(escort.Container) bool{
		func(c escort.Container) bool { return slices.Contains(poolerNames, c.Name) },
		func(c escort.Container) bool { return !isExporter(c) && hasName(c, "pgbouncer") },
		func(c escort.Container) bool { return !isExporter(c) },
		func(escort.Container) bool { return true },
	} {
		if i := slices.IndexFunc(p.Containers, is); i >= 0 {
			return p.Containers[i]
		}
	}
	return escort.Container{}
}

func isExporter(c escort.Container) bool { return hasName(c, "exporter") }

// hasName reports whether the container's name has the word, or the last part of its image's.
func hasName(c escort.Container, word string) bool {
	image, _, _ := strings.Cut(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
	return strings.Contains(c.Name, word) || strings.Contains(image, word)
}

// portNames are the names that charts give the port on which pgbouncer listens.
var portNames = []string{"pgbouncer", "psql", "postgres", "postgresql", "pgsql"}

// ConsolePort returns the port of a pooler's console: the configured one. Otherwise it is the port that the pooler's container declares,
// or the preset's.
func ConsolePort(configured int, p escort.Pod) int {
	usual := defaultPort
	if preset := presetOf(p.Labels); preset != nil {
		usual = preset.port
	}
	return cmp.Or(configured, declaredPort(poolerOf(p).Ports, usual), usual)
}

// declaredPort returns which of a container's ports is pgbouncer's; zero: it cannot be known. A port for metrics is often beside it.
func declaredPort(ports []escort.Port, usual int) int {
	is := []func(escort.Port) bool{
		func(port escort.Port) bool { return slices.Contains(portNames, port.Name) },
		func(escort.Port) bool { return len(ports) == 1 },
		func(port escort.Port) bool { return port.Number == defaultPort },
		func(port escort.Port) bool { return port.Number == usual },
	}
	for _, is := range is {
		if i := slices.IndexFunc(ports, is); i >= 0 {
			if number := ports[i].Number; number >= 1 && number <= maxPort {
				return number
			}
			return 0
		}
	}
	return 0
}

// processProbe matches a command that only looks for a process, and nothing else.
var processProbe = lazyRegexp("^(\\S*sh -[eux]*c )?\\S*(pidof|pgrep|kill -0) [^;&|\\n$`]*$")

// needsPort reports whether a liveness probe may fail when nothing listens on the port any more. What a command does is mostly not known:
// pg_isready connects, and so may a script.
func needsPort(probe escort.LivenessProbe, port int) bool {
	if len(probe.Command) > 0 {
		return !processProbe().MatchString(strings.Join(probe.Command, " "))
	}
	return probe.Port == port
}
