package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/env/worker/ledger"
)

const (
	// patience bounds what takes milliseconds on a machine that is not busy.
	patience = 20 * time.Second
	// glance is how often a test looks: seldom enough to let workers work.
	glance = 5 * time.Millisecond
	// quick is a hold and think time that lets a test see many transactions.
	quick = time.Millisecond
	// aWhile shows that something does not happen: long for a worker, short for a test.
	aWhile = 100 * time.Millisecond
)

func TestAFailureAtBeginIsSkipped(t *testing.T) {
	w, balance := work(t, failing("BEGIN", hangUp))
	require.Equal(t, []int64{2}, w.Skipped)
	require.Equal(t, 1, w.BeginErrors)
	require.Equal(t, 2, w.Connects)
	require.Contains(t, w.LastError, "BEGIN")
	require.Equal(t, ledger.Balance{Committed: w.Committed}, balance)
}

func TestAFailureInATransactionIsAborted(t *testing.T) {
	for _, verb := range []string{"INSERT", "SELECT"} {
		t.Run(verb, func(t *testing.T) {
			w, balance := work(t, failing(verb, doThenHangUp))
			require.Equal(t, []int64{2}, w.Aborted)
			require.Equal(t, ledger.Balance{Committed: w.Committed, Aborted: 1}, balance)
		})
	}
}

func TestAFailureAtCommitIsAmbiguous(t *testing.T) {
	w, balance := work(t, failing("COMMIT", hangUp))
	require.Equal(t, []int64{2}, w.Ambiguous)
	require.Equal(t, ledger.Balance{Committed: w.Committed, Ambiguous: 1}, balance)
}

func TestACommitWhoseAnswerIsLostIsAmbiguousAndCommitted(t *testing.T) {
	w, balance := work(t, failing("COMMIT", doThenHangUp))
	require.Equal(t, ledger.Balance{Committed: w.Committed, Ambiguous: 1, AmbiguousCommitted: 1}, balance)
}

func TestAValidatedConnectionFailsSilently(t *testing.T) {
	// With validation every second SELECT is one.
	failThird := func(verb string, count int) act {
		if verb == "SELECT" && count == 3 {
			return hangUp
		}
		return reply
	}
	w, balance := work(t, failThird, func(o *options) { o.validate = true })
	require.Equal(t, 1, w.Silent)
	require.Equal(t, int64(w.Committed), w.Last, "no attempt was spent")
	require.Equal(t, ledger.Balance{Committed: w.Committed}, balance)
}

func TestAConnectionIsRecycledBetweenTransactionsWithAGoodbye(t *testing.T) {
	s := serve(t, always)
	c := begin(t, s, func(o *options) { o.recycle = 10 * quick })
	require.Eventually(t, func() bool { return c.snapshot().Workers[0].Connects > 2 }, patience, glance)
	w := end(t, c)
	require.Equal(t, int64(w.Committed), w.Last)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.goodbyes == s.logins
	}, patience, glance)
}

func TestAWorkerThatCannotConnectTriesAgain(t *testing.T) {
	config, err := settings("postgres://worker@127.0.0.1:1/app?sslmode=disable")
	require.NoError(t, err)
	c := start(config, options{workers: 1})
	require.Eventually(t, func() bool { return c.snapshot().Workers[0].ConnectErrors > 1 }, patience, glance)
	require.Zero(t, end(t, c).Last)
}

func TestAWorkerWithoutAnAnswerHangsAndTheProbeStaysGreen(t *testing.T) {
	c := begin(t, serve(t, failing("COMMIT", sayNothing)))
	require.Eventually(t, func() bool { return len(ledger.Hanging(c.snapshot(), aWhile)) == 1 }, patience, glance)
	require.Equal(t, http.StatusOK, request(c, http.MethodGet, "/healthz"))

	require.Equal(t, http.StatusAccepted, request(c, http.MethodPost, "/stop"))
	c.finish(aWhile)
	w := c.snapshot().Workers[0]
	require.Equal(t, ledger.Committing, w.State, "who hangs cannot stop")
	require.Equal(t, int64(2), w.InFlight)
	require.Greater(t, w.LongestStall, aWhile)
}

// Before workers are watched, they all connect at once: a stall of another kind.
func TestAStallThatIsForgottenDoesNotCount(t *testing.T) {
	c := begin(t, serve(t, always))
	c.workers[0].book.write(func(w *ledger.Worker) { w.LongestStall = time.Hour })
	require.Equal(t, http.StatusNoContent, request(c, http.MethodPost, "/forget"))
	require.Less(t, c.snapshot().Workers[0].LongestStall, time.Hour)
	end(t, c)
}

func TestTheFirstWorkerIsTheStraggler(t *testing.T) {
	c := begin(t, serve(t, always), func(o *options) { o.workers, o.first, o.straggler = 2, 5, time.Hour })
	workers := c.snapshot().Workers
	require.Equal(t, 5, workers[0].Worker)
	require.Equal(t, 2*time.Hour, workers[0].Pace)
	require.Equal(t, 6, workers[1].Worker)
	require.Equal(t, 2*quick, workers[1].Pace)
	end(t, c)
}

func TestAProgramThatIsToldToEndEnds(t *testing.T) {
	s := serve(t, always)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-url", s.url, "-listen", "127.0.0.1:0", "-hold", "1ms"}) }()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.rows[1]) > 0
	}, patience, glance)
	cancel()
	require.NoError(t, <-ended)
}

// work has one worker work against a server until its trouble is over, and settles its ledger.
func work(t *testing.T, answer func(string, int) act, with ...func(*options)) (ledger.Worker, ledger.Balance) {
	s := serve(t, answer)
	c := begin(t, s, with...)
	require.Eventually(t, func() bool { return c.snapshot().Workers[0].Committed > 3 }, patience, glance)
	w := end(t, c)
	return w, s.settle([]ledger.Worker{w})
}

func begin(t *testing.T, s *server, with ...func(*options)) *crew {
	o := options{workers: 1, first: 1, habits: habits{hold: quick, think: quick}}
	for _, w := range with {
		w(&o)
	}
	config, err := settings(s.url)
	require.NoError(t, err)
	c := start(config, o)
	t.Cleanup(c.stop)
	return c
}

// end stops the crew, and returns its first ledger.
func end(t *testing.T, c *crew) ledger.Worker {
	c.finish(patience)
	w := c.snapshot().Workers[0]
	require.Equal(t, ledger.Stopped, w.State)
	return w
}

func always(string, int) act { return reply }

// failing fails the second statement of a kind.
func failing(verb string, how act) func(string, int) act {
	return func(v string, count int) act {
		if v == verb && count == 2 {
			return how
		}
		return reply
	}
}

func request(c *crew, method, path string) int {
	w := httptest.NewRecorder()
	c.handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code
}
