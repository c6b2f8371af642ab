package rotate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	"quiesce/test/parts/bubble"
)

// inWorld runs a test in a world whose clients live.
func inWorld(t *testing.T, hashed bool, test func(t *testing.T, w *world)) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, hashed)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.live(ctx)
		test(t, w)
	})
}

var promised = []string{"enable " + green, "userlist " + green, "app " + green, "forbid " + blue, "forget " + blue, "userlist " + blue, "settle"}

func TestRotation_Undisturbed_EndsInThePromisedOrder(t *testing.T) {
	for _, hashed := range []bool{false, true} {
		t.Run(fmt.Sprint("hashed ", hashed), func(t *testing.T) {
			inWorld(t, hashed, func(t *testing.T, w *world) {
				began := time.Now()
				_, err := w.rotation().Run(t.Context())
				require.NoError(t, err)
				w.requireRotated(blue, green)
				require.Equal(t, promised, w.order())
				require.GreaterOrEqual(t, time.Since(began), quietFor)
				stored, err := lineOf(w.list, green)
				require.NoError(t, err)
				require.Equal(t, hashed, isHashed(stored), "as the other line is")
			})
		})
	}
}

// The world fails the test if any client cannot connect, or if a login is closed too early.
func TestRotation_KilledBeforeOrAfterEachEffect_AnotherRunEndsIt(t *testing.T) {
	for _, before := range []bool{false, true} {
		for at := 1; ; at++ {
			killed := false
			t.Run(fmt.Sprintf("before=%v effect %d", before, at), func(t *testing.T) {
				inWorld(t, !before, func(t *testing.T, w *world) {
					w.killAt, w.before = at, before
					_, err := w.rotation().Run(w.short(t))
					if killed = w.dead; killed {
						require.Error(t, err)
						w.revive(t)
						_, err = w.rotation().Run(t.Context())
					}
					require.NoError(t, err)
					w.requireRotated(blue, green)
				})
			})
			if !killed {
				require.Greater(t, at, 10)
				break
			}
		}
	}
}

func TestRotation_KilledAgainAndAgain_Ends(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		for run := 0; ; run++ {
			require.Less(t, run, 100)
			w.killAt = w.effects + 1 + run%8
			if _, err := w.rotation().Run(w.short(t)); err == nil {
				break
			}
			w.revive(t)
		}
		w.requireRotated(blue, green)
	})
}

// short is a context that ends when a dead process would poll forever.
func (w *world) short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			_ = escort.Sleep(ctx, 15*time.Second)
			w.mutex.Lock()
			if w.dead {
				cancel()
			}
			w.mutex.Unlock()
		}
	}()
	return ctx
}

func (w *world) revive(t *testing.T) {
	time.Sleep(time.Minute)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.dead, w.killAt = false, 0
}

// A worker that sleeps has its old login, and comes back late.
func TestRotation_OldLoginIsUsedInTheQuietTime_TimeBeginsAnew(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		late := &client{login: w.app[0], fixed: true, away: true}
		w.locked(func() { w.clients = append(w.clients, late) })
		go func() {
			for _, wait := range []time.Duration{quietFor - time.Minute, 10 * time.Minute} {
				time.Sleep(wait)
				w.mutex.Lock()
				late.away = !late.away
				w.mutex.Unlock()
			}
		}()
		began := time.Now()
		_, err := w.rotation().Run(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(began), quietFor+9*time.Minute+quietFor)
		require.Contains(t, strings.Join(w.told, "\n"), "its quiet time begins anew: client 6")
		w.locked(func() { late.login = w.app[0] }) // it has ended
		w.requireRotated(blue, green)
	})
}

// A pooler keeps the connection of a client that came and went between two looks.
func TestRotation_OldLoginIsUsedBetweenTwoLooks_TimeBeginsAnew(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		began := time.Now()
		go func() {
			time.Sleep(quietFor - time.Minute)
			w.mutex.Lock()
			w.kept[blue], w.lastUse[blue] = true, time.Now()
			w.mutex.Unlock()
		}()
		_, err := w.rotation().Run(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(began), quietFor-time.Minute+quietFor)
		w.requireRotated(blue, green)
	})
}

func TestRotation_NobodyCouldLook_TimeBeginsAnew(t *testing.T) {
	for _, c := range []struct {
		name  string
		blind time.Duration
		anew  bool
	}{{"briefly", maxGap / 2, false}, {"for long", 2 * maxGap, true}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, false, func(t *testing.T, w *world) {
				go func() {
					time.Sleep(quietFor / 2)
					w.setBlind(true)
					time.Sleep(c.blind)
					w.setBlind(false)
				}()
				began := time.Now()
				_, err := w.rotation().Run(t.Context())
				require.NoError(t, err)
				require.Equal(t, c.anew, time.Since(began) > quietFor/2+2*maxGap+quietFor)
				w.requireRotated(blue, green)
			})
		})
	}
}

func (w *world) setBlind(blind bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.blind = blind
}

// A client that comes in the last moment is not locked out.
func TestRotation_OldLoginIsUsedWhenItIsClosed_Undone(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		late := &client{login: w.app[0], fixed: true, away: true}
		w.locked(func() { w.clients = append(w.clients, late) })
		r := w.rotation()
		came := false
		r.Database = lateDatabase{fakeDatabase{w}, func() {
			if !came {
				came, late.away = true, false
			}
		}}
		go func() {
			time.Sleep(2 * quietFor)
			w.mutex.Lock()
			defer w.mutex.Unlock()
			late.away = true
		}()
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		w.locked(func() { late.login = w.app[0] })
		w.requireRotated(blue, green)
		require.Equal(t, []string{"forbid " + blue, "allow " + blue, "forbid " + blue, "forget " + blue}, w.order()[3:7])
	})
}

// lateDatabase has a client that logs in just before its role may not.
type lateDatabase struct {
	fakeDatabase
	come func()
}

func (d lateDatabase) Forbid(ctx context.Context, name string) error {
	err := d.fakeDatabase.Forbid(ctx, name)
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.come()
	return err
}

// A client that reads from a standby must be able to log in there, too.
func TestRotation_StandbyReplaysLate_ClientsMoveAfterIt(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		r := w.rotation()
		late := &lateStandby{fakeDatabase: fakeDatabase{w}, until: time.Now().Add(2 * acceptTimeout)}
		r.Database = late
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		w.requireRotated(blue, green)
		require.False(t, w.moved[1].at.Before(late.until))
		require.Contains(t, w.told, "wait: these have not replayed yet that app_green can log in: server pg-1:5432")
	})
}

// lateStandby is a database with a standby that replays nothing until some time.
type lateStandby struct {
	fakeDatabase
	until time.Time
}

func (l *lateStandby) Position(context.Context) (position string, err error) {
	err = l.look(func() { require.True(l, l.roles[green].login); position = "0/5" })
	return position, err
}

func (l *lateStandby) Behind(_ context.Context, position string) (behind []string, err error) {
	err = l.look(func() {
		require.Equal(l, "0/5", position)
		if time.Now().Before(l.until) {
			behind = []string{"server pg-1:5432"}
		}
	})
	return behind, err
}

// PostgreSQL commits a statement that is canceled while it waits for a synchronous standby.
func TestRotation_ClosingFailsAfterItWasDone_Undone(t *testing.T) {
	for name, stop := range map[string]bool{"the standby is lost": false, "the run is stopped": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := w.rotation()
				r.Database = canceledDatabase{fakeDatabase{w}, func() {
					if stop {
						cancel()
					}
				}}
				_, err := r.Run(ctx)
				require.ErrorContains(t, err, "closing: canceling statement")
				require.True(t, w.roles[blue].login)
			})
		})
	}
}

// canceledDatabase closes a login, and says that it has not.
type canceledDatabase struct {
	fakeDatabase
	then func()
}

func (d canceledDatabase) Forbid(ctx context.Context, name string) error {
	err := d.fakeDatabase.Forbid(ctx, name)
	d.then()
	return errors.Join(err, errors.New("canceling statement due to user request"))
}

// Allow fails as a server's does.
func (d canceledDatabase) Allow(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.fakeDatabase.Allow(ctx, name)
}

func TestRotation_Back_ClientsHaveTheOldLoginAgain(t *testing.T) {
	for _, step := range []Step{Opening, Moving, Quiet, Closing, Ending, Closed} {
		t.Run(string(step), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				w.stopAt(t, step)
				r := w.rotation()
				r.To = ""
				for range 2 { // asked twice, it is not turned twice
					record, err := r.Back(t.Context())
					require.NoError(t, err)
					require.True(t, w.record.Back)
					require.NotEqual(t, Closed, record.Step)
				}
				_, err := r.Run(t.Context())
				require.NoError(t, err)
				w.requireBack(step)
				before := len(w.log)
				record, err := r.Back(t.Context())
				require.NoError(t, err)
				require.Equal(t, Closed, record.Step, "asked after the end, it is done")
				require.Equal(t, blue, record.To)
				require.Len(t, w.log, before)
				require.Equal(t, "the rotation to app_green is undone already", w.told[len(w.told)-1])
			})
		})
	}
}

func (w *world) requireBack(step Step) {
	w.Helper()
	require.Equal(w, Record{From: green, To: blue, Step: Closed, Back: true}, Record{From: w.record.From, To: w.record.To, Step: w.record.Step, Back: w.record.Back})
	require.Equal(w, blue, w.app[0].User)
	require.Equal(w, step == Closed, w.app[0].Password != firstWord, "the old password, if it is still known")
	require.Equal(w, &fakeRole{}, w.roles[green])
	for _, p := range w.poolers {
		require.Empty(w, w.fails(p, w.app[0], true))
	}
}

// stopAt runs until this step is recorded, and ends the process there.
func (w *world) stopAt(t *testing.T, step Step) { w.stop(t, w.rotation(), step) }

func (w *world) stop(t *testing.T, r *Rotation, step Step) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.Userlists = stopping{w.userlists(), step, cancel}
	_, err := r.Run(ctx)
	if step != Closed {
		require.Error(t, err)
	}
	require.Equal(t, step, w.record.Step)
}

type stopping struct {
	fakeUserlists
	at   Step
	stop func()
}

func (s stopping) SetRecord(ctx context.Context, r Record) error {
	if err := s.fakeUserlists.SetRecord(ctx, r); err != nil || r.Step != s.at {
		return err
	}
	s.stop()
	return errors.New("stopped")
}

func TestRotation_Twice_ComesBackToTheFirstLogin(t *testing.T) {
	t.Run("a list with passwords", func(t *testing.T) { requireTwice(t, false) })
	t.Run("a list with verifiers", func(t *testing.T) { requireTwice(t, true) })
}

func requireTwice(t *testing.T, hashed bool) {
	inWorld(t, hashed, func(t *testing.T, w *world) {
		r := w.rotation()
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		require.True(t, r.HasBegun())
		r = w.rotation()
		r.To = ""
		_, err = r.Run(t.Context())
		require.ErrorContains(t, err, "say --to app_blue")
		r.To = blue
		_, err = r.Run(t.Context())
		require.NoError(t, err)
		w.requireRotated(green, blue)
	})
}

func TestRotation_ToTheLoginInUse_NothingChanges(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		r := w.rotation()
		r.To = blue
		record, err := r.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, Closed, record.Step)
		require.Empty(t, w.log)
	})
}

// Someone moved a client by hand.
func TestRotation_RestingLoginIsInUse_ItsPasswordStays(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		w.locked(func() { w.roles[green].login, w.kept[green] = true, true })
		r := w.rotation()
		r.To = green
		r.Poolers = occupied{fakePoolers{w}}
		_, err := r.Run(t.Context())
		require.ErrorContains(t, err, "app_green is in use already: client 6, a connection of a pooler. give its password with --password-file")
		require.NotContains(t, strings.Join(w.log, "\n"), "enable")
	})
}

type occupied struct{ fakePoolers }

func (o occupied) Sessions(_ context.Context, user string) ([]string, error) {
	if user == green {
		return []string{"client 6"}, nil
	}
	return nil, nil
}

func TestRotation_Refusals_NothingChanges(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world, *Rotation)
		says    string
	}{
		"unfit role":        {func(w *world, _ *Rotation) { w.roles[green].unfit = "it is no member" }, "app_green is refused: it is no member"},
		"both can log in":   {func(w *world, r *Rotation) { w.roles[green].login, r.To = true, "" }, "with --to"},
		"not asked":         {func(_ *world, r *Rotation) { r.To = "" }, "say --to app_green"},
		"neither can":       {func(w *world, _ *Rotation) { w.roles[blue].login = false }, "neither login"},
		"foreign app login": {func(w *world, _ *Rotation) { w.app[0].User = "root" }, "none of --logins"},
		"app login rests":   {func(w *world, _ *Rotation) { w.app[0].User = green }, "cannot log in"},
		"unlisted":          {func(w *world, _ *Rotation) { w.list = "" }, "no line"},
		"list of the other": {func(w *world, _ *Rotation) { w.list = formatLine(green, firstWord) }, "no line"},
		"no way to tell":    {func(_ *world, r *Rotation) { r.App = nil }, "no client would learn"},
		"other rotation": {func(w *world, r *Rotation) {
			w.record, r.To = Record{From: blue, To: green, Step: Moving}, blue
		}, "under way"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, false)
				r := w.rotation()
				c.prepare(w, r)
				_, _, err := r.Plan(t.Context())
				require.ErrorContains(t, err, c.says, "a dry run says so too")
				_, err = r.Run(t.Context())
				require.ErrorContains(t, err, c.says)
				require.Empty(t, w.log)
				require.False(t, r.HasBegun(), "there is nothing to continue or undo")
			})
		})
	}
}

// Nothing was written. An advice to undo it would undo the rotation before.
func TestRotation_RecordCannotBeWritten_HasNotBegun(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		r := w.rotation()
		r.Userlists = unwritable{w.userlists()}
		_, err := r.Run(t.Context())
		require.ErrorContains(t, err, "forbidden")
		require.False(t, r.HasBegun())
	})
}

type unwritable struct{ Userlists }

func (unwritable) SetRecord(context.Context, Record) error { return errors.New("forbidden") }

func TestRotation_Plan_ChangesNothingAndNamesWhatIsLeft(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		_, plan, err := w.rotation().Plan(t.Context())
		require.NoError(t, err)
		require.Len(t, plan, 5)
		require.Empty(t, w.log)
		w.stopAt(t, Closing)
		before := len(w.log)
		r := w.rotation()
		_, plan, err = r.Plan(t.Context())
		require.NoError(t, err)
		require.False(t, r.HasBegun())
		require.Len(t, plan, 2)
		require.Contains(t, plan[0], "let app_blue not log in")
		require.Len(t, w.log, before)
	})
}

// pgbouncer's own logins have no role: the userlist alone decides.
func TestRotation_WithoutDatabase_Ends(t *testing.T) {
	inWorld(t, false, func(t *testing.T, w *world) {
		w.locked(func() { clear(w.roles) })
		r := w.rotation()
		r.Database = nil
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"userlist " + green, "app " + green, "userlist " + blue, "settle"}, w.order())
	})
}

// Without a database, only the poolers know whether the other login is closed. The application's Secret was changed by hand.
func TestRotation_ToTheLoginInUseWithoutDatabase_OtherOneIsClosed(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		login := escort.Login{User: green, Password: "a password that was set by hand"}
		w.locked(func() {
			w.list = withLine(w.list, green, login.Password)
			w.listed = append(w.listed, version{w.list, time.Now()})
			w.app[0] = login
			for _, c := range w.clients {
				c.away = true
			}
		})
		record, plan, err := w.pgbouncerOnly().Plan(t.Context())
		require.NoError(t, err)
		require.Equal(t, Record{From: blue, To: green, Step: Moving}, record)
		require.Len(t, plan, 4)
		_, err = w.pgbouncerOnly().Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"userlist " + blue, "settle"}, w.order())
		for _, p := range w.poolers {
			require.NotEmpty(t, w.fails(p, escort.Login{User: blue, Password: firstWord}, false))
		}
		before := len(w.log)
		record, err = w.pgbouncerOnly().Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, Closed, record.Step, "it is recorded")
		require.Len(t, w.log, before)
	})
}

// A pooler that comes or goes has no console for seconds, as in a drain.
func TestRotation_EveryThirdLookFails_Ends(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		r := w.rotation()
		r.Poolers = &flaky{fakePoolers: fakePoolers{w}}
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		w.requireRotated(blue, green)
		require.Contains(t, strings.Join(w.told, "\n"), "cannot look at all poolers and servers: pod db/pgbouncer-1: refused")
	})
}

func TestRotation_NobodyCanLookAtTheEnd_LoginStaysOpen(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		r := w.rotation()
		r.Poolers = &flaky{fakePoolers: fakePoolers{w}, always: true}
		_, err := r.Run(shortly(t))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Contains(t, strings.Join(w.told, "\n"), "cannot look at all poolers and servers")
		require.True(t, w.roles[blue].login)
		require.Equal(t, Quiet, w.record.Step)
	})
}

// A drain shuts a pooler down before it deletes the pod, so a run that starts then waits. A dry run fails at once.
func TestRotation_PoolerShutsDownAtTheStart_RunWaits(t *testing.T) {
	for name, failure := range map[string]error{
		"does not listen yet": pgbouncer.ErrUnreachable, "has closed": pgbouncer.ErrClosed, "is shutting down": pgbouncer.ErrShuttingDown,
		"does not answer": fmt.Errorf("no answer in time: %w", context.DeadlineExceeded),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				r := w.rotation()
				r.Poolers = &starting{fakePoolers{w}, failure, 3}
				_, _, err := r.Plan(t.Context())
				require.ErrorContains(t, err, "cannot look at all poolers and servers: pod db/pgbouncer-1: ")
				_, err = r.Run(t.Context())
				require.NoError(t, err)
				w.requireRotated(blue, green)
			})
		})
	}
}

// A login that is refused is so the next time, too.
func TestRotation_ConsoleRefusesTheLogin_FailsAtOnce(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		r := w.rotation()
		r.Poolers = &starting{fakePoolers{w}, pgbouncer.ErrRefused, 1}
		_, err := r.Run(t.Context())
		require.ErrorIs(t, err, pgbouncer.ErrRefused)
		require.Empty(t, w.log)
	})
}

// starting is poolers of which one fails in the first looks.
type starting struct {
	fakePoolers
	failure  error
	failures int
}

func (s *starting) Check(ctx context.Context) error {
	if s.failures--; s.failures >= 0 {
		return fmt.Errorf("pod db/pgbouncer-1: %w", s.failure)
	}
	return s.fakePoolers.Check(ctx)
}

type flaky struct {
	fakePoolers
	looks  int
	always bool
}

func (f *flaky) Sessions(ctx context.Context, user string) ([]string, error) {
	if f.looks++; f.looks%3 == 1 || f.always {
		return nil, errors.New("pod db/pgbouncer-1: refused")
	}
	return f.fakePoolers.Sessions(ctx, user)
}
