package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quiesce/internal/escort"
	"quiesce/internal/scram"
)

// open enables the login that rests, on the server and then in every userlist. Nothing of the other login changes.
func (r *Rotation) open(ctx context.Context, record Record) (Record, error) {
	var users []string
	err := r.patient(ctx, func() (err error) { users, err = r.flushed(ctx, record.To); return err })
	if err != nil {
		return record, err
	}
	if err := r.owned(ctx, record); err != nil {
		return record, err
	}
	login, given, err := r.password(ctx, record) // only now: an earlier run may have moved the clients in its last moment
	if err != nil {
		return record, err
	}
	if login.Password == "" {
		login.Password = generate()
	}
	if len(users) > 0 {
		// A new password would lock them out. Theirs will do, if it is the one that was given.
		if err := r.verify(ctx, login, given); err != nil {
			return record, fmt.Errorf("%s is in use already: %s. %w", record.To, names(users), err)
		}
	} else if err := r.enable(ctx, record, login); err != nil {
		return record, err
	}
	r.opened = login
	record.Step = Moving
	return record, nil
}

func (r *Rotation) verify(ctx context.Context, login escort.Login, given bool) error {
	advice := errors.New("give its password with --password-file, or end these sessions")
	if !given {
		return advice
	}
	refusing, err := r.Poolers.Refusing(ctx, login)
	if err == nil && len(refusing) > 0 {
		err = advice
	}
	return err
}

// enable stores one verifier in all places: pgbouncer logs in to the server with the proof of its client, which fits only the verifier that
// is the server's too.
func (r *Rotation) enable(ctx context.Context, record Record, login escort.Login) error {
	verifier, err := scram.New(login.Password, scram.Iterations)
	if err != nil {
		return err
	}
	if r.Database != nil {
		if err := r.Database.Enable(ctx, login.User, verifier.Stored()); err != nil {
			return err
		}
		r.tell("%s can log in to the server", login.User)
	}
	return r.Userlists.SetPassword(ctx, login.User, record.From, login.Password, verifier.Stored())
}

// password returns the login to rotate to, and whether its password is known from outside this run.
func (r *Rotation) password(ctx context.Context, record Record) (login escort.Login, given bool, err error) {
	login = escort.Login{User: record.To, Password: r.Password}
	if r.App != nil {
		current, previous, err := r.App.Login(ctx)
		if err != nil {
			return login, false, err
		}
		if login.Password == "" && current.User == record.To {
			login = current
		}
		if login.Password == "" && previous.User == record.To && record.Back { // else it is one that was closed before
			login = previous
		}
		if current.User == record.To && login.Password != current.Password {
			return login, false, errors.New("the Secret of --app-secret has another password than the one that was given: give none")
		}
	}
	return login, login.Password != "", nil
}

// accepted waits until clients could work with the login through every pooler.
func (r *Rotation) accepted(ctx context.Context, record Record, login escort.Login) error {
	return r.await(ctx, record, "does not accept "+login.User, func() ([]string, error) { return r.Poolers.Refusing(ctx, login) })
}

// await asks until no pooler is named any more, or another run has changed the record.
func (r *Rotation) await(ctx context.Context, record Record, what string, ask func() ([]string, error)) error {
	var last []string
	var lastErr error
	err := escort.Poll(ctx, time.Now().Add(acceptTimeout), r.interval(acceptInterval), func() (bool, error) {
		if err := r.owned(ctx, record); errors.Is(err, errAnotherRun) {
			return false, err
		}
		if last, lastErr = ask(); lastErr == nil && len(last) > 0 {
			r.tell("wait: %s: %s", what, names(last))
		}
		return lastErr == nil && len(last) == 0, nil
	})
	if !errors.Is(err, escort.ErrTimeout) {
		return err
	}
	if lastErr != nil {
		return fmt.Errorf("poolers did not answer in %s: %w", acceptTimeout, lastErr)
	}
	return fmt.Errorf("after %s, this still %s: %s. Correct it, and run the same command again", acceptTimeout, what, names(last))
}

// move waits until every pooler accepts the login, lets the clients move, and waits until none has the other login.
func (r *Rotation) move(ctx context.Context, record Record) (Record, error) {
	login, _, err := r.password(ctx, record)
	if err != nil {
		return record, err
	}
	if r.opened.User == record.To {
		login.Password = cmp.Or(login.Password, r.opened.Password)
	}
	if login.Password == "" || r.opened.User == record.To && login.Password != r.opened.Password {
		record.Step = Opening // the run that generated it was killed before anyone learned it, or an earlier run moved the clients to its own
		return record, nil
	}
	if err := r.reopen(ctx, record.To); err != nil {
		return record, err
	}
	if err := r.replayed(ctx, record); err != nil {
		return record, err
	}
	if err := r.accepted(ctx, record, login); err != nil { // the clients move when every pooler accepts them, and not before
		return record, err
	}
	r.tell("every pooler accepts %s", record.To)
	if err := r.moveApp(ctx, record, login); err != nil {
		return record, err
	}
	for {
		users, err := r.flushed(ctx, record.From)
		switch {
		case err != nil:
			r.tell("%s", err)
		case len(users) == 0:
			r.tell("%s is unused: its quiet time begins, %s", record.From, r.QuietFor)
			return anew(record), nil
		default:
			r.tell("wait: %s is still used: %s", record.From, names(users))
		}
		if err := escort.Sleep(ctx, r.interval(pollInterval)); err != nil {
			return record, err
		}
		if err := r.owned(ctx, record); errors.Is(err, errAnotherRun) { // it may have moved the clients back: then this wait has no end
			return record, err
		}
	}
}

// reopen lets a login log in that a run has closed whose rotation is undone.
func (r *Rotation) reopen(ctx context.Context, login string) error {
	if r.Database == nil {
		return nil
	}
	role, err := r.Database.Role(ctx, login)
	if err != nil || role.CanLogin {
		return err
	}
	return r.allow(ctx, login)
}

// replayed waits until every standby has the login as the primary has it. A standby may replay hours late on purpose, so the wait has no end.
func (r *Rotation) replayed(ctx context.Context, record Record) error {
	if r.Database == nil {
		return nil
	}
	position, err := r.Database.Position(ctx)
	if err != nil {
		return err
	}
	for {
		behind, err := r.Database.Behind(ctx, position)
		switch {
		case err != nil:
			r.tell("%s", err)
		case len(behind) == 0:
			return nil
		default:
			r.tell("wait: these have not replayed yet that %s can log in: %s", record.To, names(behind))
		}
		if err := escort.Sleep(ctx, r.interval(acceptInterval)); err != nil {
			return err
		}
		if err := r.owned(ctx, record); errors.Is(err, errAnotherRun) {
			return err
		}
	}
}

func (r *Rotation) moveApp(ctx context.Context, record Record, login escort.Login) error {
	if r.App == nil {
		r.tell("now move the clients to %s, with the password that you gave", login.User)
		return nil
	}
	current, _, err := r.App.Login(ctx)
	if err != nil || current == login {
		return err
	}
	if err := r.owned(ctx, record); err != nil {
		return err
	}
	if err := r.App.Move(ctx, current, login); err != nil {
		return err
	}
	r.tell("the Secret of --app-secret has %s: restart the clients that do not read it again", login.User)
	return nil
}

// errBlind is the error for a look that is not complete.
var errBlind = errors.New("cannot look at all poolers and servers")

// users returns who uses the login: clients of poolers, and sessions of servers.
func (r *Rotation) users(ctx context.Context, login string) (clients, sessions []string, err error) {
	clients, err = r.Poolers.Sessions(ctx, login)
	if err == nil && r.Database != nil {
		sessions, err = r.Database.Sessions(ctx, login)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errBlind, err)
	}
	return clients, sessions, nil
}

// patient does something again while it cannot look: a pooler that comes or goes has no console for seconds.
func (r *Rotation) patient(ctx context.Context, do func() error) error {
	var last error
	err := escort.Poll(ctx, time.Now().Add(acceptTimeout), r.interval(acceptInterval), func() (bool, error) {
		last = do()
		if errors.Is(last, errBlind) {
			r.tell("%s", last)
			return false, nil
		}
		return last == nil, last
	})
	if errors.Is(err, escort.ErrTimeout) {
		return last
	}
	return err
}

// endKept ends what the poolers keep for a user without clients. RECONNECT would do so for all users: it also ends connections that are
// being opened, pgbouncer takes that for a failed login, and refuses clients of that user for server_login_retry. If it may not end them,
// the poolers do after server_idle_timeout.
//
// A client may take such a connection at any moment. So the servers are asked first: what was unused since then, was kept all the time.
func (r *Rotation) endKept(ctx context.Context, login string) {
	processes, err := r.Database.Processes(ctx, login)
	if err == nil {
		var kept []int
		kept, err = r.Poolers.Kept(ctx, login)
		if processes = among(processes, kept); err == nil && len(processes) > 0 {
			err = r.Database.End(ctx, login, processes)
		}
	}
	if err != nil {
		r.tell("cannot end the connections that poolers keep for %s, and waits until they do: %s", login, err)
	}
}

// among returns the processes with these IDs. If several servers have the same ID, it is unknown which of them the pooler means.
func among(processes []Process, ids []int) (found []Process) {
	servers := map[int]int{}
	for _, p := range processes {
		servers[p.ID]++
	}
	for _, p := range processes {
		if slices.Contains(ids, p.ID) && servers[p.ID] == 1 {
			found = append(found, p)
		}
	}
	return found
}

const (
	// flushes is how often flushed looks again after it has closed what poolers keep.
	flushes = 5
	// flushInterval is many times what PostgreSQL takes to end a session.
	flushInterval = 200 * time.Millisecond
)

// flushed is users, without the connections that poolers keep after their clients have gone: it closes those first.
func (r *Rotation) flushed(ctx context.Context, login string) ([]string, error) {
	for try := 0; ; try++ {
		clients, sessions, err := r.users(ctx, login)
		if err != nil || len(clients) > 0 || len(sessions) == 0 || try == flushes {
			return append(clients, sessions...), err
		}
		if try == 0 {
			r.endKept(ctx, login)
		}
		if err := escort.Sleep(ctx, flushInterval); err != nil {
			return nil, err
		}
	}
}
