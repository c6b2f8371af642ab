package escort

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"quiesce/internal/pgbouncer"
)

// ConsoleTimeout bounds the login and the first commands. It is many times what a healthy console takes, and a small part of an escort's
// minute where nothing answers, as on a black hole or a stopped process.
const ConsoleTimeout = 5 * time.Second

// WithConsoleTimeout bounds the login and the first commands of one console. The error of the context says that the console did not answer.
func WithConsoleTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, ConsoleTimeout, silence{})
}

// silence is the error of a console that did not answer in time. It is a context.DeadlineExceeded.
type silence struct{}

func (silence) Error() string { return fmt.Sprintf("console did not answer in %v", ConsoleTimeout) }

func (silence) Is(target error) bool { return target == context.DeadlineExceeded }

// IsUnreached reports whether a console or the API server was not reached for a reason that may pass, such as one that is replaced. Where nothing
// listens, or the login or the way is refused, there is no console for quiesce.
func IsUnreached(err error) bool {
	if errors.Is(err, ErrForbidden) {
		return false
	}
	if _, temporary := errors.AsType[Temporary](err); temporary { // it may be the API server that refuses connections
		return true
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && (errors.Is(err, pgbouncer.ErrUnreachable) || errors.Is(err, pgbouncer.ErrClosed))
}

// Forwarder connects to pods through the API server.
type Forwarder interface {
	// Forward connects to a port of the pod.
	Forward(ctx context.Context, namespace, name string, port int) (net.Conn, error)
}

// Consoles opens the admin consoles of pods that run pgbouncer.
type Consoles struct {
	Dial      func(ctx context.Context, address string) (net.Conn, error) // connects to a pod's address
	Forwarder Forwarder                                                   // connects instead of Dial; nil: Dial does
	Logins    Logins
	Port      func(Pod) int // of the console

	Application string // see pgbouncer.Target

	TLS        pgbouncer.TLSMode
	ServerName string         // the name in the console's certificate, for pgbouncer.TLSVerifyFull
	RootCAs    *x509.CertPool // the authorities that may have signed it
}

// Open logs in to the pod's console with the first login that is accepted.
func (c Consoles) Open(ctx context.Context, p Pod) (*pgbouncer.Console, error) {
	open := func(login Login) (*pgbouncer.Console, error) { return pgbouncer.Open(ctx, c.target(p, login)) }
	return LogIn(c.Logins(ctx, p.Namespace), open, refused)
}

func (c Consoles) connect(ctx context.Context, p Pod) (net.Conn, error) {
	port := c.Port(p)
	if c.Forwarder != nil {
		return c.Forwarder.Forward(ctx, p.Namespace, p.Name, port)
	}
	address, err := PodAddress(p.IP, port)
	if err != nil {
		return nil, err
	}
	return c.Dial(ctx, address)
}

// PodAddress returns host:port for a pod's address. Who can write the status of pods must not make the function connect to itself, or to
// what is reachable only from where it runs.
func PodAddress(ip string, port int) (string, error) {
	address, err := netip.ParseAddr(ip)
	if err != nil || !isPodAddress(address) {
		return "", fmt.Errorf("pod has address %q, which is not one of a pod", ip)
	}
	return net.JoinHostPort(address.String(), strconv.Itoa(port)), nil
}

func isPodAddress(a netip.Addr) bool {
	a = a.Unmap()
	return a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// ProveWrite logs in to a database of the pod's pgbouncer as its clients do, and writes there.
func (c Consoles) ProveWrite(ctx context.Context, p Pod, database string) error {
	prove := func(login Login) (struct{}, error) { return struct{}{}, c.target(p, login).ProveWrite(ctx, database) }
	_, err := LogIn(c.Logins(ctx, p.Namespace), prove, refused)
	return err
}

func (c Consoles) target(p Pod, login Login) pgbouncer.Target {
	return pgbouncer.Target{
		Dial: func(ctx context.Context) (net.Conn, error) { return c.connect(ctx, p) },
		User: login.User, Password: login.Password, Application: c.Application, TLS: c.TLS, ServerName: c.ServerName, RootCAs: c.RootCAs,
	}
}

func refused(err error) bool { return errors.Is(err, pgbouncer.ErrRefused) }

// ReadText logs in to a database of the pod's pgbouncer as its clients do, and returns the only value of a query's only row.
func (c Consoles) ReadText(ctx context.Context, p Pod, database, query string) (string, error) {
	read := func(login Login) (string, error) { return c.target(p, login).ReadText(ctx, database, query) }
	return LogIn(c.Logins(ctx, p.Namespace), read, refused)
}
