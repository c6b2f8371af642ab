package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"
)

const (
	// lookInterval is the time between looks at the connections. A client that stays for less may be missed, as are the kubelet's probes,
	// which would otherwise count as new clients for ever. Thousands of connections take a look milliseconds, also of pgbouncer's CPU.
	lookInterval = 100 * time.Millisecond
	// progressInterval is the time between messages about what is still open. If the pod is killed earlier than --grace says, as after an
	// eviction by the kubelet, the last one tells what was lost.
	progressInterval = 5 * time.Second
	// graceMargin is how long before the end of the grace period the hook says what will be lost: the kubelet began to count before it
	// started the hook, and nothing is written after the end.
	graceMargin = 2 * time.Second
)

// hook stops the pgbouncers of a container.
type hook struct {
	options
	log   *slog.Logger
	proc  string
	began time.Time
	all   []*pooler
}

// pooler is one pgbouncer and what can be seen of it.
type pooler struct {
	*process
	entrance
	blind bool // its ports are not known
}

func newHook(o options, log *slog.Logger) *hook {
	return &hook{options: o, log: log, proc: procFolder, began: time.Now()}
}

func (h *hook) run(ctx context.Context) error {
	if err := h.find(); err != nil {
		return err
	}
	if len(h.all) == 0 {
		h.log.Info("no pgbouncer runs here: there is nothing to wait for", "else", "if it has another name or container, set --pid-file")
		return nil
	}
	if h.dryRun {
		return h.show()
	}
	if err := h.awaitQuiet(ctx); err != nil {
		return err
	}
	if err := h.interrupt(); err != nil {
		return err
	}
	return h.awaitExit(ctx)
}

func (h *hook) find() error {
	processes, err := findProcesses(h.proc, h.options)
	if err != nil {
		return err
	}
	for _, p := range processes {
		found, err := findEntrance(p, h.port)
		if err != nil && p.ended() {
			continue
		}
		if err != nil {
			h.log.Warn("pgbouncer's clients cannot be seen: waiting for all of --accept-for", "error", err.Error(),
				"else", "run the hook as pgbouncer's user, or set --port")
		}
		h.all = append(h.all, &pooler{process: p, entrance: found, blind: err != nil})
	}
	return nil
}

// show is the dry run.
func (h *hook) show() error {
	sockets, err := h.sockets()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range h.all {
		h.log.Info("found pgbouncer", "pid", p.pid, "ports", p.ports, "clients", len(p.clients(sockets)), "servers", p.servers(p.process, sockets),
			"quietFor", h.quietFor, "acceptFor", h.accept(), "grace", h.grace)
		errs = append(errs, p.signal(0))
	}
	return errors.Join(errs...)
}

// awaitQuiet waits until no new client came for a while. It ends early when no pgbouncer is to get a signal any more.
func (h *hook) awaitQuiet(ctx context.Context) error {
	var known map[string]bool // clients; nil: before the first look
	var newest time.Time
	end := h.began.Add(h.accept())
	return h.poll(ctx, func(sockets []socket, now time.Time) bool {
		if !slices.ContainsFunc(h.all, func(p *pooler) bool { return p.takesSignal(sockets) }) {
			return true
		}
		if known == nil {
			h.log.Info("waiting until no new clients come", "quietFor", h.quietFor, "acceptFor", h.accept())
			known, newest = map[string]bool{}, now // a busy machine starts a hook seconds late
			h.addClients(known, sockets)
		} else if h.addClients(known, sockets) > 0 {
			newest = now
		}
		switch {
		case !now.Before(end):
			h.log.Warn("new clients may still come, but open transactions need the time", "quiet", now.Sub(newest).Round(lookInterval))
			return true
		case now.Sub(newest) < h.quietFor || h.isBlind():
			return false
		}
		h.log.Info("no new clients come")
		return true
	})
}

// addClients adds the clients that are connected, and returns how many are new.
func (h *hook) addClients(known map[string]bool, sockets []socket) int {
	before := len(known)
	for _, p := range h.all {
		for _, remote := range p.clients(sockets) {
			known[remote] = true
		}
	}
	return len(known) - before
}

func (h *hook) isBlind() bool {
	return slices.ContainsFunc(h.all, func(p *pooler) bool { return p.blind })
}

// takesSignal reports whether SIGINT would be the first signal. From 1.23 on, pgbouncer listens no more when a shutdown has begun.
func (p *pooler) takesSignal(sockets []socket) bool {
	return !p.ended() && (p.blind || p.isOpen(sockets))
}

// interrupt tells each pgbouncer to stop: once, and not if it is stopping already.
func (h *hook) interrupt() error {
	sockets, err := h.sockets()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range h.all {
		switch {
		case p.ended():
		case !p.takesSignal(sockets):
			h.log.Info("pgbouncer is shutting down already: its ports are closed, and a second signal would end it at once", "pid", p.pid)
		default:
			err := p.signal(syscall.SIGINT)
			errs = append(errs, err)
			if err == nil {
				h.log.Info("sent SIGINT", "pid", p.pid)
			}
		}
	}
	return errors.Join(errs...)
}

// awaitExit blocks until all pgbouncers are gone, or the hook is killed.
func (h *hook) awaitExit(ctx context.Context) error {
	next, end := time.Now(), h.began.Add(h.grace-graceMargin)
	said := false
	err := h.poll(ctx, func(sockets []socket, now time.Time) bool {
		if h.haveEnded() {
			return true
		}
		switch {
		case !said && !now.Before(end):
			h.log.Error("the grace period ends: open transactions will be aborted, and sessions disconnected", h.open(sockets)...)
			said = true
		case !now.Before(next):
			h.log.Info("waiting for open transactions", h.open(sockets)...)
			next = now.Add(progressInterval)
		}
		return false
	})
	if err == nil {
		h.log.Info("pgbouncer has exited", "after", time.Since(h.began).Round(lookInterval))
	}
	return err
}

// open returns how many connections are open. Without known ports, those of clients cannot be told from those to PostgreSQL.
func (h *hook) open(sockets []socket) []any {
	clients, servers, portsKnown := 0, 0, true
	for _, p := range h.all {
		clients += len(p.clients(sockets))
		portsKnown = portsKnown && len(p.ports) > 0
		if !p.ended() {
			servers += p.servers(p.process, sockets)
		}
	}
	if !portsKnown {
		return []any{"connections", clients + servers}
	}
	return []any{"clients", clients, "servers", servers}
}

func (h *hook) haveEnded() bool {
	return !slices.ContainsFunc(h.all, func(p *pooler) bool { return !p.ended() })
}

// poll looks at the connections until check is done.
func (h *hook) poll(ctx context.Context, check func(sockets []socket, now time.Time) (done bool)) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		sockets, err := h.sockets()
		if err != nil {
			return err
		}
		if check(sockets, time.Now()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for pgbouncer: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// sockets returns the TCP sockets of the pod: none if there is nobody to ask for any more, or if pgbouncer's clients cannot be seen anyway.
func (h *hook) sockets() ([]socket, error) {
	var failed error
	for _, p := range h.all {
		if p.blind {
			continue
		}
		sockets, err := readSockets(p.folder)
		if err == nil {
			return sockets, nil
		}
		if !p.ended() {
			failed = err
		}
	}
	return nil, failed
}
