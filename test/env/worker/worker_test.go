package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/env/worker/journal"
)

const (
	// waitTimeout bounds what takes milliseconds on an idle machine.
	waitTimeout = 20 * time.Second
	// pollInterval is the time between checks: long enough to let workers work.
	pollInterval = 5 * time.Millisecond
	// quick is a hold and think time that lets a test see many transactions.
	quick = time.Millisecond
	// aWhile is how long a test waits to show that something does not happen: long for a worker, short for a test.
	aWhile = 100 * time.Millisecond
)

func TestBegin_ConnectionLost_Skipped(t *testing.T) {
	w, balance := work(t, failing("BEGIN", hangUp))
	require.Equal(t, []int64{2}, w.Skipped)
	require.Equal(t, 1, w.BeginErrors)
	require.Equal(t, 2, w.Connects)
	require.Contains(t, w.LastError, "BEGIN")
	require.Equal(t, journal.Comparison{Committed: w.Committed}, balance)
}

func TestTransaction_ConnectionLost_Aborted(t *testing.T) {
	for _, verb := range []string{"INSERT", "SELECT"} {
		t.Run(verb, func(t *testing.T) {
			w, balance := work(t, failing(verb, doThenHangUp))
			require.Equal(t, []int64{2}, w.Aborted)
			require.Equal(t, journal.Comparison{Committed: w.Committed, Aborted: 1}, balance)
		})
	}
}

func TestCommit_ConnectionLost_Ambiguous(t *testing.T) {
	w, balance := work(t, failing("COMMIT", hangUp))
	require.Equal(t, []int64{2}, w.Ambiguous)
	require.Equal(t, journal.Comparison{Committed: w.Committed, Ambiguous: 1}, balance)
}

func TestCommit_AnswerLost_AmbiguousAndCommitted(t *testing.T) {
	w, balance := work(t, failing("COMMIT", doThenHangUp))
	require.Equal(t, journal.Comparison{Committed: w.Committed, Ambiguous: 1, AmbiguousCommitted: 1}, balance)
}

func TestValidation_ConnectionLost_NoAttemptSpent(t *testing.T) {
	// With validation every second SELECT validates.
	failThird := func(verb string, count int) response {
		if verb == "SELECT" && count == 3 {
			return hangUp
		}
		return reply
	}
	w, balance := work(t, failThird, func(o *options) { o.validate = true })
	require.Equal(t, 1, w.Silent)
	require.Equal(t, int64(w.Committed), w.Last, "no attempt was spent")
	require.Equal(t, journal.Comparison{Committed: w.Committed}, balance)
}

func TestRecycle_BetweenTransactions_Terminates(t *testing.T) {
	s := serve(t, always)
	c := begin(t, s, func(o *options) { o.recycle = 10 * quick })
	require.Eventually(t, func() bool { return c.snapshot().Workers[0].Connects > 2 }, waitTimeout, pollInterval)
	w := end(t, c)
	require.Equal(t, int64(w.Committed), w.Last)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.terminations == s.logins
	}, waitTimeout, pollInterval)
}

func TestWorker_CannotConnect_Retries(t *testing.T) {
	config, err := settings("postgres://worker@127.0.0.1:1/app?sslmode=disable", 0)
	require.NoError(t, err)
	c := start(config, options{workers: 1})
	require.Eventually(t, func() bool { return c.snapshot().Workers[0].LastError != "" }, waitTimeout, pollInterval)
	w := end(t, c)
	require.Zero(t, w.Last)
	require.Zero(t, w.ConnectErrors, "it never was connected")
}

func TestRecorder_ConnectFailsAfterConnection_Counted(t *testing.T) {
	b := newRecorder(1, behavior{})
	b.connectFailed(errors.New("no route yet"))
	b.connected()
	require.Empty(t, b.LastError)
	b.connectFailed(errors.New("connection refused"))
	require.Equal(t, 1, b.ConnectErrors)
	require.Equal(t, "connection refused", b.LastError)
}

func TestWorker_NoAnswer_HangsWhileProbePasses(t *testing.T) {
	c := begin(t, serve(t, failing("COMMIT", noAnswer)))
	require.Eventually(t, func() bool { return len(journal.Hanging(c.snapshot(), aWhile)) == 1 }, waitTimeout, pollInterval)
	require.Equal(t, http.StatusOK, request(c, http.MethodGet, "/healthz"))

	require.Equal(t, http.StatusAccepted, request(c, http.MethodPost, "/stop"))
	c.finish(aWhile)
	w := c.snapshot().Workers[0]
	require.Equal(t, journal.Committing, w.State, "a hanging worker cannot stop")
	require.Equal(t, int64(2), w.InFlight)
	require.Greater(t, w.LongestStall, aWhile)
}

// When workers start, they all connect at once: stalls of another kind.
func TestResetStalls_LongStall_NotCounted(t *testing.T) {
	c := begin(t, serve(t, always))
	c.workers[0].recorder.update(func(w *journal.Worker) { w.LongestStall = time.Hour })
	require.Equal(t, http.StatusNoContent, request(c, http.MethodPost, "/forget"))
	require.Less(t, c.snapshot().Workers[0].LongestStall, time.Hour)
	end(t, c)
}

func TestStraggler_SeveralWorkers_FirstIsSlow(t *testing.T) {
	c := begin(t, serve(t, always), func(o *options) { o.workers, o.first, o.straggler = 2, 5, time.Hour })
	workers := c.snapshot().Workers
	require.Equal(t, 5, workers[0].Worker)
	require.Equal(t, 2*time.Hour, workers[0].Pace)
	require.Equal(t, 6, workers[1].Worker)
	require.Equal(t, 2*quick, workers[1].Pace)
	end(t, c)
}

func TestRun_ContextCanceled_Ends(t *testing.T) {
	s := serve(t, always)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-url", s.url, "-listen", "127.0.0.1:0", "-hold", "1ms"}) }()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.rows[1]) > 0
	}, waitTimeout, pollInterval)
	cancel()
	require.NoError(t, <-ended)
}

// work lets one worker run against a server until it has committed again after a failure, and compares its journal.
func work(t *testing.T, answer func(string, int) response, with ...func(*options)) (journal.Worker, journal.Comparison) {
	s := serve(t, answer)
	c := begin(t, s, with...)
	require.Eventually(t, func() bool { return c.snapshot().Workers[0].Committed > 3 }, waitTimeout, pollInterval)
	w := end(t, c)
	return w, s.compare([]journal.Worker{w})
}

func begin(t *testing.T, s *server, with ...func(*options)) *group {
	o := options{workers: 1, first: 1, behavior: behavior{hold: quick, think: quick}}
	for _, w := range with {
		w(&o)
	}
	config, err := settings(s.url, 0)
	require.NoError(t, err)
	c := start(config, o)
	t.Cleanup(c.stop)
	return c
}

// end stops the workers and returns the first one's journal.
func end(t *testing.T, c *group) journal.Worker {
	c.finish(waitTimeout)
	w := c.snapshot().Workers[0]
	require.Equal(t, journal.Stopped, w.State)
	return w
}

func always(string, int) response { return reply }

// failing returns an answer that fails the second statement of a kind.
func failing(verb string, how response) func(string, int) response {
	return func(v string, count int) response {
		if v == verb && count == 2 {
			return how
		}
		return reply
	}
}

func request(c *group, method, path string) int {
	w := httptest.NewRecorder()
	c.handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code
}
