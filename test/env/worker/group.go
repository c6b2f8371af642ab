package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"quiesce/test/env/worker/journal"
)

// group is the workers of one process.
type group struct {
	workers []*worker
	stop    context.CancelFunc
	done    chan struct{} // closed when all have stopped
}

// start starts the workers.
func start(config *pgconn.Config, o options) *group {
	ctx, stop := context.WithCancel(context.Background())
	c := &group{stop: stop, done: make(chan struct{})}
	var working sync.WaitGroup
	for i := range o.workers {
		w := o.worker(i)
		w.config = config
		c.workers = append(c.workers, w)
		working.Go(func() { w.run(ctx) })
	}
	go func() {
		working.Wait()
		close(c.done)
	}()
	return c
}

// finish makes the workers finish their present transactions, and waits for that until limit.
func (c *group) finish(limit time.Duration) {
	c.stop()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
}

func (c *group) snapshot() journal.Snapshot {
	s := journal.Snapshot{Now: time.Now(), Workers: []journal.Worker{}}
	for _, w := range c.workers {
		s.Workers = append(s.Workers, w.recorder.snapshot(s.Now))
	}
	return s
}

// handler serves the probe and the journals. Like most probes, this one checks only that the process lives: it passes while every
// worker hangs.
func (c *group) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok") // an error concerns only the prober
	})
	mux.HandleFunc("GET /workers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.snapshot()) // an error concerns only the reader
	})
	mux.HandleFunc("POST /forget", func(w http.ResponseWriter, _ *http.Request) {
		for _, worker := range c.workers {
			worker.recorder.update(func(w *journal.Worker) { w.LongestStall = 0 })
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		c.stop()
		w.WriteHeader(http.StatusAccepted)
	})
	return mux
}
