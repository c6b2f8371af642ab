package rotate

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
)

// A tool that keeps Secrets wrote the old login again, so clients are about to take it.
func TestRotation_SecretHasTheOldLoginAtClosing_ClientsMoveAgain(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		r := w.rotation()
		w.locked(func() {
			r.Password = w.app[0].Password
			w.app[0], w.roles[blue].login = escort.Login{User: blue, Password: firstWord}, true
			w.moved = append(w.moved, move{w.app[0], time.Now()})
		})
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		w.requireRotated(blue, green)
		require.Equal(t, []string{"allow " + blue, "app " + green, "forbid " + blue}, w.order()[3:6])
	})
}

// The run before was interrupted when it had closed the login, and something has written that into the Secret since. It can still be opened.
func TestRotation_SecretHasTheOldLoginAtTheEnd_ClientsMoveAgain(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Ending)
		before := len(w.order())
		r := w.rotation()
		w.locked(func() {
			r.Password = w.app[0].Password
			w.app[0] = escort.Login{User: blue, Password: firstWord}
			w.moved = append(w.moved, move{w.app[0], time.Now()})
		})
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"allow " + blue, "app " + green, "forbid " + blue, "forget " + blue}, w.order()[before:before+4])
		w.requireRotated(blue, green)
	})
}

// --back in another terminal moves the clients back while this run waits for them. The old login is in use from then on.
func TestRotation_TurnedAroundWhileItWaitsForClients_Stops(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		r := w.rotation()
		waits := make(chan struct{}, 1)
		tell := r.Tell
		r.Tell = func(text string) {
			tell(text)
			if strings.Contains(text, "still used") {
				select {
				case waits <- struct{}{}:
				default:
				}
			}
		}
		w.locked(func() { w.clients[0].fixed = true })
		ended := make(chan error, 1)
		go func() { _, err := r.Run(t.Context()); ended <- err }()
		<-waits
		w.locked(func() { w.record = Record{From: green, To: blue, Step: Closed, Back: true} })
		began := time.Now()
		require.ErrorIs(t, <-ended, errAnotherRun)
		require.LessOrEqual(t, time.Since(began), 2*pollInterval)
	})
}

// One person runs --back while the run of another one waits for a pooler.
func TestRotation_AnotherRunTurnsItAroundMeanwhile_Stops(t *testing.T) {
	for step, open := range map[Step]bool{Closing: true, Ending: false} {
		t.Run(string(step), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				w.stopAt(t, step)
				before := len(w.log)
				r := w.rotation()
				r.Userlists = &turned{w.userlists(), func() { w.record = Record{From: green, To: blue, Step: Moving, Back: true} }}
				_, err := r.Run(t.Context())
				require.ErrorContains(t, err, string(step)+": another run of rotate has changed the record")
				require.NotContains(t, strings.Join(w.log[before:], "\n"), "forget "+blue)
				require.Equal(t, open, w.roles[blue].login)
				require.True(t, w.record.Back)
			})
		})
	}
}

// The other run went the same way, and was faster.
func TestRotation_AnotherRunEndedItMeanwhile_LoginStaysClosed(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		r := w.rotation()
		r.Userlists = &turned{w.userlists(), func() { w.record.Step, *w.roles[blue] = Closed, fakeRole{} }}
		_, err := r.Run(t.Context())
		require.ErrorContains(t, err, "another run of rotate has changed the record")
		require.Equal(t, &fakeRole{}, w.roles[blue])
	})
}

// turned is userlists whose record another run changes once this run has taken it.
type turned struct {
	fakeUserlists
	turn func()
}

func (t *turned) SetRecord(ctx context.Context, r Record) error {
	err := t.fakeUserlists.SetRecord(ctx, r)
	t.locked(t.turn)
	return err
}

// Another run reads the record in the moment before the role may not log in.
func TestRotation_AnotherRunTurnsItAroundWhenItIsClosed_LoginIsOpen(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		r := w.rotation()
		r.Database = lateDatabase{fakeDatabase{w}, func() { w.record = Record{From: green, To: blue, Step: Moving, Back: true} }}
		_, err := r.Run(t.Context())
		require.ErrorContains(t, err, "another run of rotate has changed the record")
		require.True(t, w.roles[blue].login)
	})
}

// Two runs write the same step, which has no times.
func TestSecretLists_AnotherRunWroteTheRecord_Refused(t *testing.T) {
	lists, client := secretLists()
	other := &SecretLists{Client: client, Lists: lists.Lists, Logins: lists.Logins}
	ours, theirs := Record{From: blue, To: green, Step: Moving, Run: "ours"}, Record{From: blue, To: green, Step: Moving, Run: "theirs"}
	for _, l := range []*SecretLists{lists, other} {
		_, err := l.Record(t.Context())
		require.NoError(t, err)
	}
	require.NoError(t, lists.SetRecord(t.Context(), ours))
	require.NoError(t, lists.SetRecord(t.Context(), ours), "its own record again does no harm")
	require.ErrorIs(t, other.SetRecord(t.Context(), theirs), errAnotherRun)
	require.ErrorIs(t, other.SetPassword(t.Context(), green, blue, "a password", "a verifier"), errAnotherRun)
	stored, err := other.Record(t.Context())
	require.NoError(t, err)
	require.Equal(t, ours, stored)
	require.NoError(t, other.SetRecord(t.Context(), theirs), "it has been read")
	require.ErrorIs(t, lists.SetRecord(t.Context(), ours), errAnotherRun)
	require.ErrorIs(t, lists.SetPassword(t.Context(), green, blue, "a password", "a verifier"), errAnotherRun)
	require.NoError(t, other.SetPassword(t.Context(), green, blue, "a password", "a verifier"))
}

// The run of one person waits for the poolers when another person starts the same command. The world fails the test if a client cannot connect.
func TestRotation_AnotherRunBeginsWhileClientsAreAboutToMove_FirstOneStops(t *testing.T) {
	for _, later := range []time.Duration{2 * time.Second, 22 * time.Second, 68 * time.Second, 74 * time.Second} {
		t.Run(later.String(), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				stopped := make(chan error, 1)
				first := w.rotation()
				first.Tell = nil
				go func() { _, err := first.Run(t.Context()); stopped <- err }()
				time.Sleep(later)
				_, err := w.rotation().Run(t.Context())
				require.NoError(t, err)
				require.ErrorIs(t, <-stopped, errAnotherRun)
				w.requireRotated(blue, green)
			})
		})
	}
}

// A run looks whether its login is used, which takes seconds. Meanwhile another run takes the record, and moves the clients.
func TestRotation_AnotherRunMovesTheClientsBeforeTheLoginIsEnabled_NothingChanges(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Opening)
		r := w.rotation()
		r.Poolers = &looking{fakePoolers{w}, func() {
			w.record.Run, w.record.Step = "another", Moving
			w.app = []escort.Login{{User: green, Password: "of the other run"}, w.app[0]}
		}}
		_, err := r.Run(t.Context())
		require.ErrorIs(t, err, errAnotherRun)
		require.Empty(t, w.order())
	})
}

// The record of a step has no times, so two runs at the same step differ by their names alone.
func TestRotation_TwoRunsContinueTheSameStep_FirstOneHasLostTheRecord(t *testing.T) {
	for _, step := range []Step{Opening, Moving} {
		t.Run(string(step), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				w.stopAt(t, step)
				first, second := w.rotation(), w.rotation()
				ours, err := first.begin(t.Context())
				require.NoError(t, err)
				theirs, err := second.begin(t.Context())
				require.NoError(t, err)
				require.ErrorIs(t, first.owned(t.Context(), ours), errAnotherRun)
				require.NoError(t, second.owned(t.Context(), theirs))
			})
		})
	}
}

// looking is poolers that show their clients while something happens.
type looking struct {
	fakePoolers
	meanwhile func()
}

func (l *looking) Sessions(ctx context.Context, user string) ([]string, error) {
	l.locked(l.meanwhile)
	return l.fakePoolers.Sessions(ctx, user)
}

// The API server does the last request of the run that stopped late: the login has another password by then.
func TestRotation_SecretChangesAfterTheLoginIsEnabled_ItsPasswordIsEnabled(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.clients = nil
		late := escort.Login{User: green, Password: "of the run that stopped"}
		r := w.rotation()
		r.Userlists = &moving{w.userlists(), func() { w.app = []escort.Login{late, w.app[0]} }}
		_, err := r.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, late, w.app[0])
		w.requireRotated(blue, green)
	})
}

// moving is userlists with something that happens once when a password has been set.
type moving struct {
	fakeUserlists
	then func()
}

func (m *moving) SetPassword(ctx context.Context, user, like, password, verifier string) error {
	err := m.fakeUserlists.SetPassword(ctx, user, like, password, verifier)
	if m.then != nil {
		m.locked(m.then)
		m.then = nil
	}
	return err
}

// One person runs --back. Then the run of another person, which has not seen it, takes the right to log in from the login that is asked for.
func TestRotation_LoginIsClosedWhileTheRotationIsUndone_LogsInAgain(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.stopAt(t, Closing)
		r := w.rotation()
		r.To = ""
		_, err := r.Back(t.Context())
		require.NoError(t, err)
		w.locked(func() { w.roles[blue].login = false })
		_, err = r.Run(t.Context())
		require.NoError(t, err)
		w.requireBack(Closing)
	})
}
