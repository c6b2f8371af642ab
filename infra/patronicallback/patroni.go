package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// lookTimeout bounds one request to Patroni, which is in the same pod. On a busy machine it answers late.
	lookTimeout = 2 * time.Second
	// lookInterval is between two requests while clients wait.
	lookInterval = 200 * time.Millisecond
	// maxStatus is more than Patroni's answer has, in bytes.
	maxStatus = 1 << 20
	// keyLife is for how long the leader's key is valid at least, after it was renewed: the shortest ttl that Patroni accepts is 20 s. A
	// member that has lost its store must have stopped by then, so it is not kept.
	keyLife = 18 * time.Second
)

// patroni is the REST API of the Patroni in the same pod (https://patroni.readthedocs.io/en/latest/rest_api.html#monitoring-endpoint).
type patroni struct{ url string }

// status is Patroni's answer, as far as it is used.
type status struct {
	State    string `json:"state"` // running, stopping, restarting, ...
	Role     string `json:"role"`
	LastSeen int64  `json:"dcs_last_seen"` // when Patroni last reached its store, in seconds since 1970; 0: not said
}

// leads reports whether the member is the primary. Before 4.0 Patroni calls it master.
func (s status) leads() bool { return isPrimary(s.Role) }

// running reports whether the member is a primary that accepts writes.
func (s status) running() bool { return s.leads() && s.State == "running" }

// patience returns how long the member may be kept from stopping.
func (s status) patience(now time.Time, most time.Duration) time.Duration {
	if s.LastSeen == 0 {
		return most
	}
	return max(0, min(most, time.Unix(s.LastSeen, 0).Add(keyLife).Sub(now)))
}

func isPrimary(role string) bool { return role == "primary" || role == "master" }

// client does not verify certificates: it only connects to its own pod, which options.check ensures.
var client = &http.Client{
	Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// look returns what Patroni says. Its status code is of no interest: it is 503 while PostgreSQL stops.
func (p patroni) look(ctx context.Context) (s status, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/patroni", nil)
	if err != nil {
		return s, fmt.Errorf("ask Patroni: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return s, fmt.Errorf("ask Patroni: %w", err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxStatus)).Decode(&s); err != nil {
		return s, fmt.Errorf("read Patroni's answer: %w", err)
	}
	return s, nil
}

// awaitPrimary returns a channel that is closed when the member is a primary that accepts writes. It asks for this long at most. With
// stopFirst, one that has not been seen otherwise does not count: it is about to stop.
func (p patroni) awaitPrimary(ctx context.Context, most time.Duration, stopFirst bool) <-chan struct{} {
	leads := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		for stopped := !stopFirst; ctx.Err() == nil; _ = sleep(ctx, lookInterval) {
			s, err := p.look(ctx)
			switch {
			case err == nil && !s.running():
				stopped = true
			case err == nil && stopped:
				close(leads)
				return
			}
		}
	}()
	return leads
}

// sleep waits for d. It returns the cause of ctx when ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
