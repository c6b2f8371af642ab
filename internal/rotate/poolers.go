package rotate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// Pod is a pod that runs a pgbouncer.
type Pod struct {
	escort.Pod
	Running bool
	File    string // where the pod has its userlist
}

// Turns are the Leases with which pods of a group take turns: see escort.Turn.
type Turns interface {
	AcquireGroupLease(ctx context.Context, name string) (release func() error, acquired bool, err error)
}

// Consoles are the Poolers, by their admin consoles. No console is kept open between two calls: a pgbouncer that shuts down waits for it.
type Consoles struct {
	List     func(context.Context) ([]Pod, error)
	Consoles escort.Consoles // with the login of an administrator
	Turns    Turns           // nil: these pods are not drained
	Database string          // that clients ask for; empty: the first one of each pooler
	Admin    bool            // the logins are for consoles
}

var _ Poolers = (*Consoles)(nil)

// attempts is the application_name with which logins are tried. pgbouncer still shows a client that waits for a server, and has gone
// meanwhile: until query_wait_timeout, or until the server is tried again (seen with 1.18 and 1.24). Such a client uses no login. Another
// program that takes this name is still seen on the server. A console waits for no server, so each one counts.
const attempts = "quiesce-rotate"

// isAttempt reports whether a client is one of ours. application_name_add_host appends its address.
func isAttempt(c pgbouncer.Client) bool {
	return c.Application == attempts || strings.HasPrefix(c.Application, attempts+" - ")
}

func name(p Pod) string { return "pod " + p.Namespace + "/" + p.Name }

// each calls do with the console of each pod.
func (c *Consoles) each(ctx context.Context, do func(Pod, *pgbouncer.Console) error) error {
	pods, err := c.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if !p.Running {
			continue // it has no clients, and reads its userlist when it starts
		}
		if err := c.with(ctx, p, do); err != nil {
			return fmt.Errorf("%s: %w", name(p), err)
		}
	}
	return nil
}

func (c *Consoles) with(ctx context.Context, p Pod, do func(Pod, *pgbouncer.Console) error) error {
	console, err := c.Consoles.Open(ctx, p.Pod)
	if err != nil {
		return err
	}
	defer console.Close()
	return do(p, console)
}

// Check implements Poolers. A pod that leaves need not fit.
func (c *Consoles) Check(ctx context.Context) error {
	pods, err := c.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if !p.Running || !p.Deleted.IsZero() {
			continue
		}
		err := c.with(ctx, p, func(p Pod, console *pgbouncer.Console) error { return c.fits(ctx, p, console) })
		if err != nil {
			return fmt.Errorf("%s: %w", name(p), err)
		}
	}
	return nil
}

// fits returns why a pooler would not read its userlist, or not show all its clients.
func (c *Consoles) fits(ctx context.Context, p Pod, console *pgbouncer.Console) error {
	file, err := console.Setting(ctx, "auth_file")
	if err != nil {
		return err
	}
	if file != p.File {
		return fmt.Errorf("pgbouncer reads %s, and the Secret is mounted as %s: set auth_file to the mounted file", escort.Printable(file), escort.Printable(p.File))
	}
	if err := console.CheckAlone(ctx); err != nil {
		return err
	}
	if c.Admin {
		return nil // a console has no connection to a server
	}
	return keepsLongEnough(ctx, console)
}

// keepsLongEnough returns an error if a pooler ends the connection of a client that has gone before the next look must show it.
func keepsLongEnough(ctx context.Context, console *pgbouncer.Console) error {
	idle, err := console.Timeout(ctx, "server_idle_timeout")
	if err != nil {
		return err
	}
	if idle > 0 && idle <= maxGap { // zero: for as long as the connection lives
		return tooShort("server_idle_timeout", idle)
	}
	lifetime, err := console.Timeout(ctx, "server_lifetime")
	if err != nil {
		return err
	}
	if lifetime <= maxGap {
		return tooShort("server_lifetime", lifetime)
	}
	databases, err := console.Databases(ctx)
	if err != nil {
		return err
	}
	for _, d := range databases {
		if d.ServerLifetime > 0 && d.ServerLifetime <= maxGap {
			return tooShort("server_lifetime of database "+escort.Printable(d.Name), d.ServerLifetime)
		}
	}
	return nil
}

func tooShort(setting string, is time.Duration) error {
	return fmt.Errorf("%s is %.0f seconds, so a use could be missed: set more than %.0f", setting, is.Seconds(), maxGap.Seconds())
}

// Sessions implements Poolers.
func (c *Consoles) Sessions(ctx context.Context, user string) (found []string, err error) {
	err = c.each(ctx, func(p Pod, console *pgbouncer.Console) error {
		clients, err := console.ClientsOf(ctx, user)
		if !c.Admin {
			clients = slices.DeleteFunc(clients, isAttempt)
		}
		if len(clients) > 0 {
			found = append(found, fmt.Sprintf("%s: %d clients, one is %s", name(p), len(clients), escort.Printable(clients[0].Addr)))
		}
		return err
	})
	return found, err
}

// Kept implements Poolers.
func (c *Consoles) Kept(ctx context.Context, user string) (processes []int, err error) {
	err = c.each(ctx, func(_ Pod, console *pgbouncer.Console) error {
		kept, err := console.Kept(ctx, user)
		processes = append(processes, kept...)
		return err
	})
	return processes, err
}

// Refusing implements Poolers.
func (c *Consoles) Refusing(ctx context.Context, login escort.Login) ([]string, error) {
	return c.refusing(ctx, login, func(err error) bool { return err == nil })
}

// Unread implements Poolers. The role may not log in to the server any more, so a login ends with what the server says, or waits until
// the time is over. The pod's console has answered just before. A login to a console waits for no server, so there it must succeed.
func (c *Consoles) Unread(ctx context.Context, login escort.Login) ([]string, error) {
	return c.refusing(ctx, login, func(err error) bool { return err == nil || !c.Admin && isBehindPgbouncer(err) })
}

// isBehindPgbouncer reports whether a login has come past pgbouncer's own check of a verifier, whose refusal is "SASL authentication
// failed" (seen with 1.18 and 1.24).
func isBehindPgbouncer(err error) bool {
	return slices.ContainsFunc([]string{
		"password authentication failed for user", "is not permitted to log in", "server login failed",
		"server login has been failing", "context deadline exceeded",
	}, func(text string) bool { return strings.Contains(err.Error(), text) })
}

// leaveTime is how long new clients may come to a pod that is being deleted: until every node knows that Services do not lead there any
// more. A pod may stay for hours after that, with closed ports, and its kubelet brings it no changed Secret.
const leaveTime = 30 * time.Second

func (c *Consoles) refusing(ctx context.Context, login escort.Login, fine func(error) bool) (refusing []string, err error) {
	pods, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if !p.Deleted.IsZero() && time.Since(p.Deleted) > leaveTime {
			continue
		}
		why := "does not run yet"
		if p.Running {
			why = c.refuses(ctx, p, login, fine)
		}
		if why != "" {
			refusing = append(refusing, name(p)+": "+why)
		}
	}
	return refusing, nil
}

// refuses reloads the pooler unless it accepts the login, and returns why it still does not.
func (c *Consoles) refuses(ctx context.Context, p Pod, login escort.Login, fine func(error) bool) (why string) {
	err := c.with(ctx, p, func(_ Pod, console *pgbouncer.Console) error {
		failure := c.try(ctx, p, console, login)
		if fine(failure) {
			return nil
		}
		if err := c.reload(ctx, p, console); err != nil {
			return err
		}
		if failure = c.try(ctx, p, console, login); fine(failure) {
			return nil
		}
		return failure
	})
	if err != nil {
		return escort.Printable(err.Error())
	}
	return ""
}

// try works with the login as a client does. A user whom pgbouncer does not know is not tried: before 1.20, that can end pgbouncer
// (https://github.com/pgbouncer/pgbouncer/issues/805).
func (c *Consoles) try(ctx context.Context, p Pod, console *pgbouncer.Console, login escort.Login) error {
	known, err := console.HasUser(ctx, login.User)
	if err != nil {
		return err
	}
	if !known {
		return errors.New("its userlist has no " + login.User + " yet")
	}
	as := c.Consoles
	as.Logins = only(login)
	if c.Admin {
		console, err := as.Open(ctx, p.Pod)
		if err == nil {
			console.Close()
		}
		return err
	}
	database, err := c.database(ctx, console)
	if err != nil {
		return err
	}
	as.Application = attempts
	user, err := as.ReadText(ctx, p.Pod, database, "SELECT session_user::text")
	if err == nil && user != login.User {
		err = fmt.Errorf("its connections to the server are those of %s", escort.Printable(user))
	}
	return err
}

// only yields one login.
func only(login escort.Login) escort.Logins {
	return func(context.Context, string) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) { yield(login, nil) }
	}
}

func (c *Consoles) database(ctx context.Context, console *pgbouncer.Console) (string, error) {
	if c.Database != "" {
		return c.Database, nil
	}
	all, err := console.Databases(ctx)
	if err == nil && len(all) == 0 {
		err = errors.New("it names no database: name one with --database")
	}
	if err != nil {
		return "", err
	}
	return all[0].Name, nil
}

// reload takes the turn of the pod's group. An escort sets query_wait_timeout before it pauses, and a RELOAD would undo that.
func (c *Consoles) reload(ctx context.Context, p Pod, console *pgbouncer.Console) error {
	if c.Turns == nil {
		return console.Reload(ctx)
	}
	release, acquired, err := c.Turns.AcquireGroupLease(ctx, escort.PoolerLease(p.Pod))
	switch {
	case apierrors.IsNotFound(err): // there is no namespace for Leases, so no function that drains
	case err != nil:
		return fmt.Errorf("take the turn of its group: %w", err)
	case !acquired:
		return errors.New("a pod of its group is being drained")
	default:
		defer func() { _ = release() }() // or it expires
	}
	return console.Reload(ctx)
}
