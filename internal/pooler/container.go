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

// poolerOf returns the container in which pgbouncer runs: the one that is named so, or whose image is. Otherwise it is the first one.
func poolerOf(p escort.Pod) escort.Container {
	isPooler := func(c escort.Container) bool {
		image := c.Image[strings.LastIndex(c.Image, "/")+1:]
		return strings.Contains(c.Name, "pgbouncer") || strings.Contains(image, "pgbouncer") || c.Name == "connection-pooler"
	}
	if i := slices.IndexFunc(p.Containers, isPooler); i >= 0 {
		return p.Containers[i]
	}
	if len(p.Containers) > 0 {
		return p.Containers[0]
	}
	return escort.Container{}
}

// portNames are the names that charts give the port on which pgbouncer listens.
var portNames = []string{"pgbouncer", "psql", "postgres", "postgresql", "pgsql"}

// ConsolePort returns the port of a pooler's console: the configured one. Otherwise it is the port that the pooler's container declares,
// or the preset's.
func ConsolePort(configured int, p escort.Pod) int {
	ports := poolerOf(p).Ports
	declared := 0
	if i := slices.IndexFunc(ports, func(port escort.Port) bool { return slices.Contains(portNames, port.Name) }); i >= 0 {
		declared = ports[i].Number
	} else if len(ports) == 1 {
		declared = ports[0].Number
	}
	if declared < 1 || declared > maxPort {
		declared = 0
	}
	usual := 0
	if preset := presetOf(p.Labels); preset != nil {
		usual = preset.port
	}
	return cmp.Or(configured, declared, usual, defaultPort)
}
