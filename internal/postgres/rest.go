package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"quiesce/internal/escort"
)

const (
	// restTimeout bounds a request for a switchover. Patroni answers when it is over, after 20 s at most with its defaults.
	restTimeout = 30 * time.Second
	// restDial bounds the connection. A security group that is closed must not cost the clients that wait more than this.
	restDial = time.Second
	// maxLine bounds the headers and the text of Patroni's answer, which is one line.
	maxLine = 4 << 10
)

// ErrNotSent is the error of a request that did not reach Patroni.
var ErrNotSent = errors.New("the request did not reach Patroni")

// REST asks Patroni over its HTTP interface (https://patroni.readthedocs.io/en/latest/rest_api.html#switchover). The leader must be asked:
// only the member that is asked acts at once.
type REST struct {
	Dial  func(ctx context.Context, address string) (net.Conn, error)
	Login func(ctx context.Context, namespace string) (escort.Login, error) // for basic authentication; nil: none
}

var _ Asker = REST{}

// Switchover implements Asker.
func (r REST) Switchover(ctx context.Context, leader Member, candidate string) error {
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	address, err := escort.PodAddress(leader.IP, leader.API.Port)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	body, err := json.Marshal(map[string]string{"leader": leader.Name, "candidate": candidate})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/switchover", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	request.Header.Set("Content-Type", "application/json")
	if r.Login != nil {
		login, err := r.Login(ctx, leader.Namespace)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		request.SetBasicAuth(login.User, login.Password)
	}
	return r.send(request)
}

// send sends the request on a connection of its own. It follows no redirect, and uses no proxy.
func (r REST) send(request *http.Request) error {
	connected := false
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxLine,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, restDial)
				defer cancel()
				conn, err := r.Dial(ctx, address)
				connected = err == nil
				return conn, err
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		if !connected {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return fmt.Errorf("ask for the switchover: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxLine))
	return answerOf(response.StatusCode, escort.Printable(string(text)))
}

// answerOf returns what an answer means. After 503 the switchover may still happen
// (https://github.com/patroni/patroni/issues/2376), so the leader's key decides.
func answerOf(status int, text string) error {
	switch {
	case status == http.StatusOK || status == http.StatusAccepted:
		return nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		return fmt.Errorf("%w: it answered %d", ErrNotSent, status)
	case status >= 400 && status < 500:
		return &Refusal{Reason: fmt.Sprintf("Patroni answered %d: %s", status, text)}
	}
	return fmt.Errorf("answer %d of Patroni: %s", status, text)
}
