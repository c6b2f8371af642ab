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
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Logins are those for basic authentication that members of the namespace may get; nil: none is configured.
	Logins escort.Logins
}

var _ Asker = REST{}

// Switchover implements Asker.
func (r REST) Switchover(ctx context.Context, leader Member, candidate string) error {
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	if r.Logins == nil {
		return r.ask(ctx, leader, candidate, nil)
	}
	ask := func(login escort.Login) (struct{}, error) { return struct{}{}, r.ask(ctx, leader, candidate, &login) }
	_, err := escort.LogIn(r.Logins(ctx, leader.Namespace), ask, func(err error) bool { return errors.Is(err, errUnauthorized) })
	if _, refused := errors.AsType[*Refusal](err); err == nil || refused || errors.Is(err, errAsked) || errors.Is(err, ErrNotSent) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotSent, err) // such as a Secret that cannot be read
}

// ask asks once, with the login or without any.
func (r REST) ask(ctx context.Context, leader Member, candidate string, login *escort.Login) error {
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
	if login != nil {
		request.SetBasicAuth(login.User, login.Password)
	}
	return r.send(request)
}

// send sends the request on a connection of its own. It follows no redirect, and uses no proxy.
func (r REST) send(request *http.Request) error {
	var reached net.Conn // nil: none
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxLine,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, restDial)
				defer cancel()
				conn, err := r.Dial(ctx, address)
				if err == nil {
					reached = conn
					discardUnsent(conn, true)
				}
				return conn, err
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		if reached == nil {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return fmt.Errorf("%w: %w", errAsked, err)
	}
	discardUnsent(reached, false)
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxLine))
	_, _, loggedIn := request.BasicAuth()
	return answerOf(response.StatusCode, escort.Printable(string(text)), loggedIn)
}

// discardUnsent sets whether the end of a connection discards what has not arrived. By default the kernel goes on sending it for a minute or
// more. A request that is given up would then arrive late, and the primary would move while no client is held.
func discardUnsent(conn net.Conn, discard bool) {
	tcp, is := conn.(interface{ SetLinger(seconds int) error })
	if !is {
		return
	}
	seconds := -1 // the default
	if discard {
		seconds = 0
	}
	_ = tcp.SetLinger(seconds) // it fails only on a connection that has ended
}

var (
	// errAsked is the error of a request that Patroni may have got, so that the switchover may happen.
	errAsked = errors.New("ask for the switchover")
	// errUnauthorized is the error of a request without a login, or with one that Patroni does not know.
	errUnauthorized = errors.New("it answered 401")
)

// answerOf returns what an answer means. After 503 the switchover may still happen
// (https://github.com/patroni/patroni/issues/2376), so the leader's key decides.
func answerOf(status int, text string, loggedIn bool) error {
	switch {
	case status == http.StatusOK || status == http.StatusAccepted:
		return nil
	case status == http.StatusUnauthorized && loggedIn:
		return fmt.Errorf("%w: %w: the login of restSecretRef is not that of restapi.authentication%s", ErrNotSent, errUnauthorized, because(text))
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w: set restSecretRef to the login of restapi.authentication%s", ErrNotSent, errUnauthorized, because(text))
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: it answered 403: add the function's subnets to restapi.allowlist%s", ErrNotSent, because(text))
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: it answered %d%s", ErrNotSent, status, because(text))
	case status >= 400 && status < 500:
		return &Refusal{Reason: fmt.Sprintf("Patroni answered %d: %s", status, text)}
	}
	return fmt.Errorf("%w: answer %d of Patroni: %s", errAsked, status, text)
}
