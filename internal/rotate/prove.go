package rotate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quiesce/internal/escort"
	"quiesce/internal/scram"
)

// prove looks at all poolers and servers until the login has been unused for long enough. Each use of the login restarts the time, and so does
// a gap between two complete looks. A record that cannot be written is written at the next look: one failed request must not end a day's
// work.
func (r *Rotation) prove(ctx context.Context, record Record) (Record, error) {
	saved, unsaved := time.Now(), false
	for {
		last := record
		record = r.lookOnce(ctx, record)
		now := time.Now()
		if complete := !record.Looked.Equal(last.Looked); complete && record.Looked.Sub(record.Since) >= r.QuietFor && r.isAccepted(ctx, record) {
			r.tell("%s has been unused since %s", record.From, record.Since.UTC().Format(time.RFC3339))
			record.Step = Closing
			return record, nil
		}
		if unsaved || !record.Since.Equal(last.Since) || now.Sub(saved) >= saveInterval {
			err := r.Userlists.SetRecord(ctx, record)
			switch {
			case errors.Is(err, errAnotherRun) || err != nil && ctx.Err() != nil:
				return record, err
			case err != nil:
				r.tell("%s: it is tried again", err)
			}
			saved, unsaved = now, err != nil
		}
		if err := escort.Sleep(ctx, min(r.interval(pollInterval), max(r.QuietFor, flushInterval))); err != nil {
			return record, err
		}
	}
}

// lookOnce looks, and returns the record with the quiet time as it is then. A look that is not complete changes nothing.
func (r *Rotation) lookOnce(ctx context.Context, record Record) Record {
	clients, sessions, err := r.users(ctx, record.From)
	now := wallClock()
	switch {
	case err != nil:
		r.tell("%s", err)
		return record
	case len(clients)+len(sessions) > 0:
		r.tell("%s is used again, and its quiet time begins anew: %s", record.From, names(append(clients, sessions...)))
		record.Since = now
		if len(clients) == 0 { // what a pooler keeps would be seen for ten minutes
			r.endKept(ctx, record.From)
		}
	case r.isUnwatched(record, now):
		record.Since = now
	}
	record.Looked = now
	return record
}

// isUnwatched reports whether a use could have been missed since the last look. A clock that went back does not say how long ago that was,
// and a record whose quiet time begins after its last look would be refused.
func (r *Rotation) isUnwatched(record Record, now time.Time) bool {
	switch {
	case now.Before(record.Since):
		r.tell("the clock has gone back: the quiet time begins anew")
	case now.Sub(record.Looked) > maxGap:
		r.tell("no run looked since %s: the quiet time begins anew", record.Looked.UTC().Format(time.RFC3339))
	default:
		return false
	}
	return true
}

// again returns the record at a new start of the quiet time.
func (r *Rotation) again(record Record, users []string) Record {
	r.tell("%s is used again, and its quiet time begins anew: %s", record.From, names(users))
	return anew(record)
}

func anew(record Record) Record {
	now := wallClock()
	record.Step, record.Since, record.Looked, record.Replaced = Quiet, now, now, false
	return record
}

// wallClock returns the time without its monotonic part, which stops while a computer sleeps: such a gap would count as quiet.
func wallClock() time.Time { return time.Now().Round(0) }

// close lets the login not log in. That ends no session, so who came in the last moment is seen, and it is undone.
func (r *Rotation) close(ctx context.Context, record Record) (Record, error) {
	if strayed, err := r.strayed(ctx, record); strayed || err != nil {
		return r.moveAnew(ctx, record, err)
	}
	_, given, err := r.password(ctx, record)
	if err != nil {
		return record, err
	}
	if !given {
		return record, fmt.Errorf("the password of %s is not known: give it with --password-file", record.To)
	}
	if !r.isAccepted(ctx, record) { // or no client could log in
		return r.later(ctx, record)
	}
	next := record
	err = r.patient(ctx, func() (err error) { next, err = r.forbid(ctx, record); return err })
	if errors.Is(err, errBlind) {
		return r.later(ctx, record)
	}
	return next, err
}

// strayed reports whether the Secret of the clients has another login than the one to rotate to: something else has written it. Clients that
// restart are about to use what is being closed.
func (r *Rotation) strayed(ctx context.Context, record Record) (bool, error) {
	if r.App == nil {
		return false, nil
	}
	current, _, err := r.App.Login(ctx)
	if err != nil || current.User == record.To {
		return false, err
	}
	r.tell("the Secret of --app-secret has %s, so clients move anew: see that nothing else writes that Secret", escort.Printable(current.User))
	return true, nil
}

// moveAnew returns the record to the move, and lets the login log in that an earlier run may have closed; unless there is an error.
func (r *Rotation) moveAnew(ctx context.Context, record Record, err error) (Record, error) {
	if err != nil {
		return record, err
	}
	record.Step = Moving
	return record, r.allow(ctx, record.From)
}

// isAccepted reports whether clients could work with the login through every pooler. The quiet time goes on meanwhile: a wait without a look
// would begin it anew.
func (r *Rotation) isAccepted(ctx context.Context, record Record) bool {
	login, given, err := r.password(ctx, record)
	if err == nil && !given {
		return true // the next step says what to do
	}
	var refusing []string
	if err == nil {
		refusing, err = r.Poolers.Refusing(ctx, login)
	}
	switch {
	case err != nil:
		r.tell("%s", err)
	case len(refusing) > 0:
		r.tell("wait: does not accept %s: %s", login.User, names(refusing))
	default:
		return true
	}
	return false
}

// later returns the record to the quiet time, which looks until the login can be closed.
func (r *Rotation) later(ctx context.Context, record Record) (Record, error) {
	record.Step = Quiet
	return record, escort.Sleep(ctx, r.interval(pollInterval))
}

func (r *Rotation) forbid(ctx context.Context, record Record) (Record, error) {
	next, err := r.closeUnlessUsed(ctx, record)
	if err != nil || next.Step != Ending || r.Database == nil {
		return next, err
	}
	if err := r.Database.Forbid(ctx, record.From); err != nil { // it may have been done all the same
		return record, errors.Join(err, r.allow(ctx, record.From))
	}
	return r.closeUnlessUsed(ctx, record)
}

// closeUnlessUsed looks once more. Unless it knows that the login is unused, it lets it log in: an earlier run may have closed it already.
func (r *Rotation) closeUnlessUsed(ctx context.Context, record Record) (Record, error) {
	stored, err := r.unchanged(ctx, record)
	if stored.From == record.From && (stored.Step == Ending || stored.Step == Closed) {
		return record, err // the other run has closed it for good
	}
	var users []string
	if err == nil {
		users, err = r.lastUsers(ctx, record)
	}
	if err != nil { // who cannot look does not know
		if failed := r.allow(ctx, record.From); failed != nil { // no further look would show who is refused
			return record, fmt.Errorf("%s, and %s may be closed: %w", err, record.From, failed)
		}
		return record, err
	}
	now := wallClock()
	if len(users) > 0 {
		return r.again(record, users), r.allow(ctx, record.From)
	}
	if r.isUnwatched(record, now) {
		return anew(record), r.allow(ctx, record.From)
	}
	record.Step, record.Looked = Ending, now
	return record, nil
}

// unchanged returns the record as it is now, and an error if another run has changed it.
func (r *Rotation) unchanged(ctx context.Context, record Record) (stored Record, err error) {
	stored, err = r.Userlists.Record(ctx)
	if err == nil && stored.Text() != record.Text() {
		err = errAnotherRun
	}
	return stored, err
}

// owned returns an error if another run has changed the record. It is asked before each change that could lock out the clients that the
// other run moves.
func (r *Rotation) owned(ctx context.Context, record Record) error {
	_, err := r.unchanged(ctx, record)
	return err
}

// lastUsers returns who uses the login that is to be closed. A standby may have come since the rotation began, and was not looked at.
func (r *Rotation) lastUsers(ctx context.Context, record Record) ([]string, error) {
	if r.Database != nil {
		if err := r.Database.Check(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", errBlind, err)
		}
	}
	clients, sessions, err := r.users(ctx, record.From)
	return append(clients, sessions...), err
}

// allow undoes what forbid has done, if there is a server. A run that is stopped does so, too: it no longer sees which clients
// are refused.
func (r *Rotation) allow(ctx context.Context, login string) error {
	if r.Database == nil {
		return nil
	}
	return r.Database.Allow(context.WithoutCancel(ctx), login)
}

// end removes the password. The line in the userlists is changed and not removed: pgbouncer 1.25 still accepts a user whose line is
// gone. It gets a random password, which is not kept, in the form that the line has. With a verifier in a list of clear texts, pgbouncer
// would keep the proof of the login that checks it, and use that for the next password of this user, too. The server would refuse it (seen
// with 1.18 and 1.24).
func (r *Rotation) end(ctx context.Context, record Record) (Record, error) {
	if err := r.owned(ctx, record); err != nil {
		return record, err
	}
	if strayed, err := r.strayed(ctx, record); strayed || err != nil {
		return r.moveAnew(ctx, record, err)
	}
	if r.Database != nil {
		if err := r.Database.Forget(ctx, record.From); err != nil {
			return record, err
		}
	} else if !record.Replaced && r.isUnwatched(record, wallClock()) { // without a server, the login is open until its line changes
		return anew(record), nil
	}
	nobodys := escort.Login{User: record.From, Password: generate()}
	verifier, err := scram.New(nobodys.Password, scram.Iterations)
	if err != nil {
		return record, err
	}
	if err := r.Userlists.SetPassword(ctx, record.From, record.From, nobodys.Password, verifier.Stored()); err != nil {
		return record, err
	}
	if r.Database == nil {
		record.Replaced = true
		if err := r.Userlists.SetRecord(ctx, record); err != nil {
			return record, err
		}
	}
	err = r.await(ctx, record, "has the old line of "+record.From, func() ([]string, error) { return r.Poolers.Unread(ctx, nobodys) })
	if err != nil {
		return record, err
	}
	if r.App != nil {
		if err := r.owned(ctx, record); err != nil {
			return record, err
		}
		if err := r.App.Settle(ctx); err != nil {
			return record, err
		}
	}
	r.tell("%s is closed; %s is in use", record.From, record.To)
	record.Step, record.Replaced = Closed, false
	return record, nil
}
