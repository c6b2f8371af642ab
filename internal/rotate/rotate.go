package rotate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

const (
	// pollInterval is the time between two looks. A shorter one loads every console and server; a longer one misses more.
	pollInterval = 10 * time.Second
	// acceptInterval is the time between two tries whether poolers have read a userlist. Each reloads those that have not.
	acceptInterval = 5 * time.Second
	// acceptTimeout bounds the wait for the poolers. Kubelets bring a changed Secret within two minutes
	// (https://kubernetes.io/docs/concepts/configuration/secret/#using-secrets-as-files-from-a-pod).
	acceptTimeout = 5 * time.Minute
	// maxGap is the longest time between two complete looks that counts as quiet. It has room for a restart of this program, and for a
	// pooler that starts. Poolers must keep a connection for longer after its client, so a shorter use shows: see keepsLongEnough.
	maxGap = 5 * time.Minute
	// saveInterval is how often the record is written in the quiet time.
	saveInterval = time.Minute
)

// Rotation is one rotation. Its methods are not safe for concurrent use.
type Rotation struct {
	Logins   [2]string
	To       string        // the login that is to be used; empty: that of a rotation that is under way
	Password string        // of the login that is to be used; empty: that of App, or a generated one
	QuietFor time.Duration // how long the other login must be unused

	Database  Database // nil: the logins are pgbouncer's alone
	Poolers   Poolers
	Userlists Userlists
	App       App          // nil: a person moves the clients
	Tell      func(string) // is told what happens, for people

	id     string        // of this run; empty: it has tried to write nothing yet
	begun  bool          // it has written a record
	opened escort.Login  // the login that this run has enabled
	told   string        // the last text
	haste  time.Duration // divides the intervals in tests; zero: one
}

// Run rotates, or continues a rotation, until nothing is left to do. After an error it can be called again, also by another process.
func (r *Rotation) Run(ctx context.Context) (Record, error) {
	record, err := r.begin(ctx)
	for err == nil && record.Step != Closed {
		if record, err = r.step(ctx, record); err == nil {
			err = r.Userlists.SetRecord(ctx, record)
		}
	}
	return record, err
}

// HasBegun reports whether Run or Back has written a record. Before that, an error leaves nothing to continue or undo.
func (r *Rotation) HasBegun() bool { return r.begun }

// step does what is next, and returns the record with what follows.
func (r *Rotation) step(ctx context.Context, record Record) (Record, error) {
	do := map[Step]func(context.Context, Record) (Record, error){
		Opening: r.open, Moving: r.move, Quiet: r.prove, Closing: r.close, Ending: r.end,
	}[record.Step]
	next, err := do(ctx, record)
	if err != nil {
		return record, fmt.Errorf("%s: %w", record.Step, err)
	}
	return next, nil
}

// begin returns the record of a rotation that is under way, or starts one.
func (r *Rotation) begin(ctx context.Context) (Record, error) {
	var record Record
	err := r.patient(ctx, func() (err error) { record, err = r.Look(ctx); return err })
	if err != nil || record.Step == Closed {
		return record, err
	}
	if record.Step == "" {
		record.Step = Opening
		r.tell("rotate from %s to %s", record.From, record.To)
	} else {
		r.tell("continue from %s to %s: %s", record.From, record.To, record.Step)
	}
	return r.take(ctx, record)
}

// take writes the record as one of this run. An earlier run that still works finds another one's record before its next change, and stops.
func (r *Rotation) take(ctx context.Context, record Record) (Record, error) {
	if r.id == "" {
		r.id = rand.Text()
	}
	record.Run = r.id
	err := r.Userlists.SetRecord(ctx, record)
	r.begun = r.begun || err == nil
	return record, err
}

// Look returns the record of a rotation that is under way, or that of one that can begin, without a step. The step is Closed if there is
// nothing to do. It changes nothing.
func (r *Rotation) Look(ctx context.Context) (Record, error) {
	record, err := r.Userlists.Record(ctx)
	if err != nil {
		return record, err
	}
	if record.Step == "" || record.Step == Closed {
		if record, err = r.start(ctx, record); err != nil {
			return record, err
		}
	} else if r.To != "" && r.To != record.To {
		return record, fmt.Errorf("a rotation to %s is under way: finish it without --to, or undo it with --back", record.To)
	}
	switch {
	case record.Step == Closed:
		return record, nil
	case record.Step == "" && r.To == "": // or a command that is repeated would rotate again
		return record, fmt.Errorf("%s is in use, and %s rests: say --to %s to rotate", record.From, record.To, record.To)
	}
	return record, r.check(ctx, record)
}

// start returns a new record: from the login that works to the one that rests. There is nothing to do if that login is in use and the other
// one is closed. Without a database, only a record says so.
func (r *Rotation) start(ctx context.Context, last Record) (Record, error) {
	active, err := r.active(ctx)
	if err != nil {
		return Record{}, err
	}
	if r.To != active {
		return Record{From: active, To: r.other(active)}, nil
	}
	record := Record{From: r.other(active), To: active, Step: Closed}
	if r.Database == nil && last.To != active {
		record.Step = Moving
	}
	return record, nil
}

func (r *Rotation) other(login string) string { return otherThan(login, r.Logins) }

func otherThan(login string, logins [2]string) string {
	if login == logins[0] {
		return logins[1]
	}
	return logins[0]
}

// active returns the login that works. The database decides; without one, what the clients have.
func (r *Rotation) active(ctx context.Context) (string, error) {
	var current escort.Login
	if r.App != nil {
		var err error
		if current, _, err = r.App.Login(ctx); err != nil {
			return "", err
		}
		if !slices.Contains(r.Logins[:], current.User) {
			return "", fmt.Errorf("the Secret of --app-secret has user %s, which is none of --logins", escort.Printable(current.User))
		}
	}
	if r.Database == nil {
		return current.User, nil
	}
	var able []string
	for _, login := range r.Logins {
		role, err := r.Database.Role(ctx, login)
		if err != nil {
			return "", err
		}
		if role.CanLogin {
			able = append(able, login)
		}
	}
	switch {
	case len(able) == 1 && r.App != nil && able[0] != current.User:
		return "", fmt.Errorf("the Secret of --app-secret has user %s, who cannot log in: correct it first", current.User)
	case len(able) == 1:
		return able[0], nil
	case len(able) == 2 && r.To != "":
		return r.other(r.To), nil
	case len(able) == 2:
		return "", errors.New("both logins can log in, and no rotation is recorded: name the one to rotate to with --to")
	default:
		return "", errors.New("neither login can log in: enable the one that clients have with ALTER ROLE ... LOGIN")
	}
}

// check returns why the logins cannot be rotated.
func (r *Rotation) check(ctx context.Context, record Record) error {
	if r.App == nil && r.Password == "" {
		return errors.New("without --app-secret no client would learn a generated password: give one with --password-file or --password-env")
	}
	if r.Database != nil {
		for _, login := range r.Logins {
			role, err := r.Database.Role(ctx, login)
			if err != nil {
				return err
			}
			if role.Unfit != "" {
				return fmt.Errorf("%s is refused: %s", login, role.Unfit)
			}
		}
		if err := r.Database.Check(ctx); err != nil {
			return err
		}
	}
	listed := record.From
	if record.Step != "" && record.Step != Opening { // the one to be closed has no line if the rotation was undone early
		listed = record.To
	}
	if err := r.Userlists.Check(ctx, listed, r.other(listed)); err != nil {
		return err
	}
	err := r.Poolers.Check(ctx)
	if isPassing(err) {
		err = fmt.Errorf("%w: %w", errBlind, err)
	}
	return err
}

// isPassing reports whether a console failed as that of a pod that comes, goes or is busy does.
func isPassing(err error) bool {
	return slices.ContainsFunc([]error{pgbouncer.ErrUnreachable, pgbouncer.ErrClosed, pgbouncer.ErrShuttingDown, context.DeadlineExceeded},
		func(passing error) bool { return errors.Is(err, passing) })
}

// Back turns a rotation around: the login that clients had before is the one to be used. Run continues it. A rotation that is being undone
// stays so, and one that has been undone is Closed: then nothing is left to do.
func (r *Rotation) Back(ctx context.Context) (Record, error) {
	record, err := r.Userlists.Record(ctx)
	switch {
	case err != nil:
		return record, err
	case record.Step == "":
		return record, errors.New("no rotation is recorded: there is nothing to undo")
	case record.Back:
		if record.Step == Closed {
			r.tell("the rotation to %s is undone already", record.From)
		}
		return record, nil
	}
	back := Record{From: record.To, To: record.From, Back: true, Step: Moving}
	gone := Ending // from this step on, its password may be gone
	if r.Database == nil {
		gone = Quiet // its quiet time may have begun anew when its line had been changed
	}
	if slices.Index(steps, record.Step) >= slices.Index(steps, gone) {
		back.Step = Opening
	}
	r.tell("undo the rotation to %s", back.From)
	back, err = r.take(ctx, back)
	if err == nil && record.Step == Closing { // not before: a run that closes it meanwhile finds this record, and undoes it
		err = r.allow(ctx, back.To)
	}
	return back, err
}

// tell reports something once.
func (r *Rotation) tell(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); r.Tell != nil && text != r.told {
		r.told = text
		r.Tell(text)
	}
}

// interval returns an interval as it is to be waited.
func (r *Rotation) interval(d time.Duration) time.Duration { return d / max(1, r.haste) }

// maxNamed bounds how many are named in one line.
const maxNamed = 5

func names(all []string) string {
	if len(all) > maxNamed {
		return fmt.Sprintf("%s, and %d more", strings.Join(all[:maxNamed], ", "), len(all)-maxNamed)
	}
	return strings.Join(all, ", ")
}
