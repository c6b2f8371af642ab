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

// One person runs --back while the run of another one waits for a pooler.
func TestRotation_AnotherRunTurnsItAroundMeanwhile_Stops(t *testing.T) {
	for step, open := range map[Step]bool{Closing: true, Ending: false} {
		t.Run(string(step), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				w.stopAt(t, step)
				before := len(w.log)
				r := w.rotation()
				r.Poolers = &turned{fakePoolers{w}, func() { w.record = Record{From: green, To: blue, Step: Moving, Back: true} }}
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
		r.Poolers = &turned{fakePoolers{w}, func() { w.record.Step, *w.roles[blue] = Closed, fakeRole{} }}
		_, err := r.Run(t.Context())
		require.ErrorContains(t, err, "another run of rotate has changed the record")
		require.Equal(t, &fakeRole{}, w.roles[blue])
	})
}

// turned is poolers that are asked while another run changes the record.
type turned struct {
	fakePoolers
	turn func()
}

func (t *turned) Check(ctx context.Context) error {
	t.locked(t.turn)
	return t.fakePoolers.Check(ctx)
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

func TestSecretLists_AnotherProcessWroteTheRecord_Refused(t *testing.T) {
	lists, client := secretLists()
	other := &SecretLists{Client: client, Lists: lists.Lists, Logins: lists.Logins}
	forth := Record{From: blue, To: green, Step: Quiet, Since: wallClock(), Looked: wallClock()}
	for _, l := range []*SecretLists{lists, other} {
		_, err := l.Record(t.Context())
		require.NoError(t, err)
		require.NoError(t, l.SetRecord(t.Context(), forth), "the same record again does no harm")
	}
	back := Record{From: green, To: blue, Step: Moving, Back: true}
	require.NoError(t, other.SetRecord(t.Context(), back))
	forth.Step = Closing
	require.ErrorContains(t, lists.SetRecord(t.Context(), forth), "another run of rotate has changed the record")
	stored, err := lists.Record(t.Context())
	require.NoError(t, err)
	require.Equal(t, back, stored)
	require.NoError(t, lists.SetRecord(t.Context(), forth), "it has been read")
}
