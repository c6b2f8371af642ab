package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

func TestMark_Value_ReadBack(t *testing.T) {
	for _, former := range []int{0, 1, 15, 120, maxFormer} {
		for number := range 100 {
			m := mark{former, number}
			got, is := readMark(m.value())
			valid := number%10 != 0 && (number <= maxNumber || number == resumed || number == yielded)
			require.Equal(t, valid, is, m.value())
			if valid {
				require.Equal(t, m, got)
				require.NoError(t, pgbouncer.CheckSetting(pgbouncer.ServerLoginRetry, m.value()))
			}
		}
	}
}

func TestMark_ValuesOfPeople_AreNone(t *testing.T) {
	for _, value := range []string{"15", "1", "0", "1.5", "1.015", "1.01540", "2.01542", "1.015421", "1.01595", "", "1e+06", "x"} {
		_, is := readMark(value)
		require.False(t, is, value)
	}
}

func TestNewNumber_Always_IsOfAPause(t *testing.T) {
	for range 1000 {
		m := mark{15, newNumber()}
		got, is := readMark(m.value())
		require.True(t, is, m)
		require.True(t, got.isPause(), m)
	}
}

func TestNewMark_FormerValue_Kept(t *testing.T) {
	for value, want := range map[string]int{"15": 15, "0": 0, "999": 999, mark{15, 42}.value(): 15, mark{7, resumed}.value(): 7} {
		m, err := newMark(value, 11)
		require.NoError(t, err, value)
		require.Equal(t, mark{want, 11}, m)
	}
	for _, value := range []string{"0.5", "1000", "-1", "", strings.Repeat("9", 1000)} {
		_, err := newMark(value, 11)
		require.Error(t, err, value)
		require.Less(t, len(err.Error()), 200)
	}
}

// What pgbouncer shows is the mark that was written, whatever its digits are.
func TestMark_RealPoolers_ShowItAsWritten(t *testing.T) {
	parts.Each(t, parts.Options{}, func(t *testing.T, p *parts.Pooler) {
		console, err := pgbouncer.Open(t.Context(), targetOf(p))
		require.NoError(t, err)
		t.Cleanup(console.Close)
		for _, former := range []int{0, 1, 15, 100, 537, maxFormer} {
			for _, number := range []int{1, 29, 42, 58, 89, resumed} {
				value := mark{former, number}.value()
				require.NoError(t, console.Set(t.Context(), pgbouncer.ServerLoginRetry, value))
				shown, err := console.Setting(t.Context(), pgbouncer.ServerLoginRetry)
				require.NoError(t, err)
				require.Equal(t, value, shown)
			}
		}
	})
}

func TestPatience_StoreNotSeen_Shrinks(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for ago, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, 10 * time.Second: 5 * time.Second, 15 * time.Second: 3 * time.Second, 18 * time.Second: 0, time.Hour: 0,
	} {
		require.Equal(t, want, status{LastSeen: now.Add(-ago).Unix()}.patience(now, 5*time.Second), ago)
	}
	require.Equal(t, 5*time.Second, status{}.patience(now, 5*time.Second), "not said")
}

// What is done with a pooler depends on its mark, and on who has paused what.
func TestView_MarkAndPauses_Decide(t *testing.T) {
	pause, over, none := mark{15, 42}.value(), mark{15, resumed}.value(), "15"
	for name, c := range map[string]struct {
		view           view
		refused        string
		ours, leftover bool
	}{
		"nothing":                       {view: view{retry: none}},
		"paused by a person":            {view: view{retry: none, paused: true}, refused: "another administrator"},
		"paused by quiesce":             {view: view{retry: "1", paused: true}, refused: "another administrator"},
		"a person's, on a resumed mark": {view: view{retry: over, paused: true}, refused: "another administrator", leftover: true},
		"paused by a callback":          {view: view{retry: pause, paused: true}, ours: true},
		"and a person, another":         {view: view{retry: pause, paused: true, others: []string{"theirs"}}, ours: true},
		"of another cluster":            {view: view{retry: pause, others: []string{"theirs"}}, refused: "another cluster"},
		"killed after RESUME":           {view: view{retry: pause}, leftover: true},
		"killed later":                  {view: view{retry: over}, leftover: true},
		"another's, by a person":        {view: view{retry: none, others: []string{"theirs"}}},
		"sessions":                      {view: view{retry: none, sessions: true}, refused: "session mode"},
		"a replication client":          {view: view{retry: none, streams: true}, refused: "replication client"},
	} {
		c.view.databases = []string{"app"}
		if c.refused == "" {
			require.NoError(t, c.view.refuse(), name)
		} else {
			require.ErrorContains(t, c.view.refuse(), c.refused, name)
		}
		require.Equal(t, c.ours, c.view.ours(), name)
		_, leftover := c.view.leftover()
		require.Equal(t, c.leftover, leftover, name)
	}
	require.ErrorContains(t, view{retry: none}.refuse(), "none of the databases")
}
