package pooler

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadPreStop_Delay_IsTheLeadingSleeps(t *testing.T) {
	for command, want := range map[string]time.Duration{
		"":                                0,
		"sleep|15":                        15 * time.Second,
		"/bin/sleep|15":                   15 * time.Second,
		"sleep|0.5":                       500 * time.Millisecond,
		"sleep|2m":                        2 * time.Minute,
		"sleep|1|2s":                      3 * time.Second,
		"sleep|infinity":                  0,
		"sleep|-1":                        0,
		"sleep":                           0,
		"sleep|999999999999":              0,
		"sleep|49h":                       0,
		"sleep|1d|1d|1d|1d":               48 * time.Hour,
		"httpGet|/stop":                   0,
		"sh|-c|sleep 15":                  15 * time.Second,
		"/bin/sh|-c|sleep 15":             15 * time.Second,
		"bash|-ec|sleep 5 && sleep 10":    15 * time.Second,
		"sh|-c|\n sleep 5;\nsleep 1m\n":   65 * time.Second,
		"sh|-c|sleep 5; kill -INT 1":      5 * time.Second,
		"sh|-c|kill -INT 1; sleep 120":    0,
		"sh|-c|echo going; sleep 15":      0,
		"sh|-c|sleep 15 &":                0,
		"sh|-c|sleep 15 & wait":           0,
		"sh|-c|sleep 15 || true":          0,
		"sh|-c|sleep $TIME":               0,
		"sh|-c|sleep 5 && sleep $TIME":    5 * time.Second,
		"sh|script.sh":                    0,
		"sh|-c|sleep 15|sh":               0,
		"psql|-c|sleep 15":                0,
		"python|-c|import time; sleep 15": 0,
	} {
		var preStop []string
		if command != "" {
			preStop = strings.Split(command, "|")
		}
		require.Equal(t, want, readPreStop(preStop).delay, "%q", command)
	}
}

func TestReadPreStop_NotOnlySleeps_IsOpen(t *testing.T) {
	for command, want := range map[string]bool{
		"": false, "sleep|15": false, "/bin/sleep|1|2s": false, "sh|-c|sleep 15": false, "sh|-c|\n sleep 5;\nsleep 1m\n": false,
		"bash|-ec|sleep 5 && sleep 10": false,
		"sh|/drain.sh":                 true, "sh|-c|sleep 5; sh /drain.sh": true, "httpGet|/stop": true,
		"sh|-c|sleep 5; kill -INT 1; while kill -0 1; do sleep 1; done": true,
		"/prestop/prestop|pgbouncer":                                    true, "sh|-c|asleep 5": true,
	} {
		var preStop []string
		if command != "" {
			preStop = strings.Split(command, "|")
		}
		require.Equal(t, want, readPreStop(preStop).open, "%q", command)
	}
}

// The author of a pod writes its hook.
func TestReadPreStop_ManyLongSleeps_SumStaysInRange(t *testing.T) {
	arguments := strings.Repeat(" 48h", 1000)
	for _, command := range [][]string{
		append([]string{"sleep"}, strings.Fields(arguments)...), {"sh", "-c", "sleep" + arguments}, {"sh", "-c", strings.Repeat("sleep 48h;", 1000)},
	} {
		hook := readPreStop(command)
		require.Equal(t, maxSleep, hook.delay)
		require.LessOrEqual(t, hook.sleeps, maxSleep)
		require.GreaterOrEqual(t, hook.sleeps, time.Duration(0))
	}
}
