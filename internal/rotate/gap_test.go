package rotate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

// A computer was off for some time, and a weekly job had the old login meanwhile. The world fails the test if the login is closed too early.
func TestRotation_ResumedAtClosingAfterAGap_TimeBeginsAnew(t *testing.T) {
	for name, forbidden := range map[string]bool{"still open": false, "closed by the earlier run": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				w.stopAt(t, Closing)
				time.Sleep(6 * maxGap)
				w.locked(func() { w.roles[blue].login, w.lastUse[blue] = !forbidden, time.Now() })
				_, err := w.rotation().Run(t.Context())
				require.NoError(t, err)
				require.Contains(t, strings.Join(w.told, "\n"), "no run looked since")
				require.Equal(t, []string{"allow " + blue, "forbid " + blue}, w.order()[3:5])
				w.requireRotated(blue, green)
			})
		})
	}
}

// Without a database, the userlist is all that closes the login.
func TestRotation_ResumedAtEndingAfterAGapWithoutDatabase_TimeBeginsAnew(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		w.stop(t, w.pgbouncerOnly(), Ending)
		time.Sleep(6 * maxGap)
		resumed := time.Now()
		_, err := w.pgbouncerOnly().Run(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(resumed), quietFor)
		require.Contains(t, strings.Join(w.told, "\n"), "no run looked since")
	})
}

// Once the line has changed, nobody can use the login any more: what is left needs no other quiet time.
func TestRotation_ResumedAfterTheLineChangedWithoutDatabase_Ends(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		w.stop(t, w.pgbouncerOnly(), Ending)
		r := w.pgbouncerOnly()
		r.Poolers = unreadable{fakePoolers{w}}
		_, err := r.Run(w.short(t))
		require.Error(t, err)
		require.True(t, w.record.Replaced)
		time.Sleep(6 * maxGap)
		resumed := time.Now()
		_, err = w.pgbouncerOnly().Run(t.Context())
		require.NoError(t, err)
		require.Less(t, time.Since(resumed), quietFor)
		require.Equal(t, Closed, w.record.Step)
		require.False(t, w.record.Replaced)
	})
}

// unreadable is poolers of which one hangs.
type unreadable struct{ fakePoolers }

func (unreadable) Unread(context.Context, escort.Login) ([]string, error) {
	return []string{"pod db/pgbouncer-1: console unreachable"}, nil
}

// The run that was killed has replaced the line already, so the old login gets its password again.
func TestRotation_BackAfterTimeBeganAnewWithoutDatabase_Ends(t *testing.T) {
	for _, step := range []Step{Quiet, Closing} {
		t.Run(string(step), func(t *testing.T) { requireBackAnew(t, step) })
	}
}

func requireBackAnew(t *testing.T, step Step) {
	inWorld(t, false, func(t *testing.T, w *world) {
		w.stop(t, w.pgbouncerOnly(), Ending)
		w.locked(func() { w.killAt = w.effects + 2 }) // the first one is the record of that run
		_, err := w.pgbouncerOnly().Run(w.short(t))
		require.ErrorIs(t, err, errKilled)
		require.Equal(t, "userlist "+blue, w.order()[2])
		w.revive(t)
		time.Sleep(2 * maxGap)
		w.stop(t, w.pgbouncerOnly(), step)
		r := w.pgbouncerOnly()
		r.To = ""
		_, err = r.Back(t.Context())
		require.NoError(t, err)
		_, err = r.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, escort.Login{User: blue, Password: firstWord}, w.app[0])
		for _, p := range w.poolers {
			require.Empty(t, w.fails(p, w.app[0], false))
		}
	})
}

// pgbouncerOnly is a rotation of logins that have no role.
func (w *world) pgbouncerOnly() *Rotation {
	w.locked(func() { clear(w.roles) })
	r := w.rotation()
	r.Database = nil
	return r
}

// A resumed run has a shorter --quiet-for, which the record fulfils. Nobody could look for hours.
func TestRotation_FirstLookOfAShorterQuietTimeIsBlind_GoesOnLooking(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		r := w.rotation()
		r.Poolers = &flaky{fakePoolers: fakePoolers{w}, always: true}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		looked := time.Now().Add(-time.Hour)
		record, err := r.prove(ctx, Record{From: blue, To: green, Step: Quiet, Since: looked.Add(-2 * quietFor), Looked: looked})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, Quiet, record.Step)
	})
}

// Poolers refuse for four minutes, and then nobody can look for three. Each is shorter than the gap that counts as quiet.
func TestRotation_WaitsBeforeItClosesAddUp_TimeBeginsAnew(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		r := w.rotation()
		r.Poolers = &slow{fakePoolers{w}, time.Now().Add(4 * time.Minute), time.Now().Add(7 * time.Minute)}
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		require.Contains(t, strings.Join(w.told, "\n"), "no run looked since")
		w.requireRotated(blue, green)
	})
}

// A surplus pooler finds no node for hours after a day of quiet time.
func TestRotation_PoolerIsPendingAtTheEnd_QuietTimeGoesOn(t *testing.T) {
	for _, step := range []Step{Quiet, Closing} {
		t.Run(string(step), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				w.stopAt(t, step)
				r := w.rotation()
				const pending = 3 * quietFor
				began := time.Now()
				r.Poolers = &slow{fakePoolers{w}, began.Add(pending), began}
				_, err := r.Run(t.Context())
				require.NoError(t, err)
				w.requireRotated(blue, green)
				require.Less(t, time.Since(began), pending+maxGap)
				require.NotContains(t, strings.Join(w.told, "\n"), "no run looked since")
			})
		})
	}
}

// shortly is a context that ends before a run of these tests can.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), quietFor/2)
	t.Cleanup(cancel)
	return ctx
}

// slow is poolers that refuse every login for some time, and do not show their clients for longer.
type slow struct {
	fakePoolers
	accepts, shows time.Time
}

func (s *slow) Refusing(ctx context.Context, login escort.Login) ([]string, error) {
	if time.Now().Before(s.accepts) {
		return []string{"pod db/pgbouncer-1: refused"}, nil
	}
	return s.fakePoolers.Refusing(ctx, login)
}

func (s *slow) Sessions(ctx context.Context, user string) ([]string, error) {
	if time.Now().Before(s.shows) {
		return nil, errKilled
	}
	return s.fakePoolers.Sessions(ctx, user)
}

// A standby that came in the quiet time may have sessions that nobody has looked at.
func TestRotation_StandbyCameInTheQuietTime_LoginStaysOpen(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		w.locked(func() { w.roles[blue].login = false }) // by a run that was killed
		r := w.rotation()
		r.Database = &grown{fakeDatabase: fakeDatabase{w}}
		_, err := r.Run(shortly(t))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Contains(t, strings.Join(w.told, "\n"), "cannot look at all poolers and servers: 1 standbys stream")
		require.True(t, w.roles[blue].login)
		require.NotContains(t, w.order(), "forbid "+blue)
	})
}

// grown is a database that has another standby after the first look.
type grown struct {
	fakeDatabase
	checks int
}

func (g *grown) Check(ctx context.Context) error {
	if g.checks++; g.checks > 1 {
		return errors.New("1 standbys stream")
	}
	return g.fakeDatabase.Check(ctx)
}

// The API server can be away for a moment in a day of quiet time.
func TestRotation_RecordCannotBeWrittenInTheQuietTime_Continues(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		r := w.rotation()
		failing := &failingOnce{fakeUserlists: w.userlists()}
		r.Userlists = failing
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		require.True(t, failing.failed)
		w.requireRotated(blue, green)
	})
}

type failingOnce struct {
	fakeUserlists
	failed bool
}

func (f *failingOnce) SetRecord(ctx context.Context, r Record) error {
	if !f.failed && f.record.Step == Quiet {
		f.failed = true
		return errors.New("etcdserver: leader changed")
	}
	return f.fakeUserlists.SetRecord(ctx, r)
}
