package pooler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// openTimeout bounds the way to a console that takes commands: many times what it takes where anybody answers, and a small
	// part of an escort's minute where nobody does, as on a black hole or a stopped process.
	openTimeout = 5 * time.Second
	// lookTimeout bounds the attempts to see the pod, lookInterval is between them. An API server that fails once must not cost
	// transactions; but one that never lets us look must not keep the pod.
	lookTimeout  = 5 * time.Second
	lookInterval = 250 * time.Millisecond
	// defaultPort is pgbouncer's own (https://www.pgbouncer.org/config.html#listen_port).
	defaultPort = 6432
)

// load is what a pooler has to do.
type load struct {
	sessions bool // some client has a connection to the database for as long as it likes
	inFlight int  // transactions, or sessions, when last counted
}

// look connects to the cluster and has a first look at the pod, unless it is gone.
func (e *run) look(ctx context.Context, ref drain.Ref) (here bool, err error) {
	until := time.Now().Add(lookTimeout)
	fault := poll(ctx, until, lookInterval, func() (bool, error) {
		here, err = e.lookOnce(ctx, ref)
		return err == nil, nil
	})
	if fault != nil && err != nil {
		return false, fmt.Errorf("look at the pod: %w", err)
	}
	return here, fault
}

func (e *run) lookOnce(ctx context.Context, ref drain.Ref) (here bool, err error) {
	if e.k == nil {
		k, err := e.Connect(ctx)
		if err != nil {
			return false, err
		}
		e.k = k
	}
	pod, err := e.k.Inspect(ctx, ref)
	if err != nil || pod == nil {
		return false, err
	}
	e.pod = *pod
	return true, nil
}

func (e *run) terminating() bool { return !e.pod.Deleted.IsZero() }

// open gets a console that takes commands, and looks at what the pooler does.
func (e *run) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, errors.New("the console took too long to answer"))
	defer cancel()
	console, err := e.reach(ctx)
	if err != nil {
		return err
	}
	if err := mayCommand(ctx, console); err != nil {
		return err
	}
	return e.survey(ctx)
}

// reach gives the console that is open, or opens one.
func (e *run) reach(ctx context.Context) (*pgbouncer.Console, error) {
	if e.console != nil && e.console.Usable() {
		return e.console, nil
	}
	open := func(login escort.Login) (*pgbouncer.Console, error) {
		return pgbouncer.Open(ctx, pgbouncer.Target{
			Dial: e.dial, User: login.User, Password: login.Password,
			TLS: pgbouncer.TLSMode(e.TLS), ServerName: e.ServerName, RootCAs: e.RootCAs,
		})
	}
	console, err := escort.LogIn(e.Logins(ctx, e.pod.Namespace), open, func(err error) bool { return errors.Is(err, pgbouncer.ErrRefused) })
	if err != nil {
		return nil, err
	}
	e.console, e.version = console, console.Version()
	return console, nil
}

func (e *run) dial(ctx context.Context) (net.Conn, error) {
	port := consolePort(e.Port, e.pod)
	if e.ConnectVia == config.ViaPortForward {
		return e.k.Forward(ctx, e.pod.Namespace, e.pod.Name, port)
	}
	return e.Dial(ctx, net.JoinHostPort(e.pod.IP, strconv.Itoa(port)))
}

// mayCommand finds out by changing nothing: before the eviction is asked for it must be known that what follows is allowed.
func mayCommand(ctx context.Context, console *pgbouncer.Console) error {
	value, err := console.Setting(ctx, queryWaitTimeout)
	if err != nil {
		return err
	}
	return console.Set(ctx, queryWaitTimeout, value)
}

// survey takes down what the pooler is at.
func (e *run) survey(ctx context.Context) error {
	pools, err := e.console.Pools(ctx)
	if err != nil {
		return err
	}
	e.load = load{sessions: pools.HasSessions(), inFlight: pools.InFlight()}
	e.result.Version = e.version.String()
	e.result.Clients, e.result.Transactions = pools.Clients(), pools.InFlight()
	return nil
}

// close lets go of the consoles. What was commanded stays in force.
func (e *run) close() {
	for _, console := range []*pgbouncer.Console{e.console, e.stopping.second} {
		if console != nil {
			console.Close()
		}
	}
}

// poolerOf is the container that pgbouncer runs in: one that is called so, or whose image is; or else the first.
func poolerOf(p escort.Pod) escort.Container {
	called := func(c escort.Container) bool {
		image := c.Image[strings.LastIndex(c.Image, "/")+1:]
		return strings.Contains(c.Name, "pgbouncer") || strings.Contains(image, "pgbouncer") || c.Name == "connection-pooler"
	}
	if i := slices.IndexFunc(p.Containers, called); i >= 0 {
		return p.Containers[i]
	}
	if len(p.Containers) > 0 {
		return p.Containers[0]
	}
	return escort.Container{}
}

// portNames are what charts call the port that pgbouncer listens on.
var portNames = []string{"pgbouncer", "psql", "postgres", "postgresql", "pgsql"}

// consolePort is the configured port, or else the one that the pooler's container declares, or else what its kind has.
func consolePort(configured int, p escort.Pod) int {
	ports := poolerOf(p).Ports
	declared := 0
	if i := slices.IndexFunc(ports, func(port escort.Port) bool { return slices.Contains(portNames, port.Name) }); i >= 0 {
		declared = ports[i].Number
	} else if len(ports) == 1 {
		declared = ports[0].Number
	}
	usual := 0
	if preset := presetOf(p.Labels); preset != nil {
		usual = preset.port
	}
	return cmp.Or(configured, declared, usual, defaultPort)
}
