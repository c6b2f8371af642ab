package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"quiesce/internal/escort"
)

// maxLiveAnswer bounds the answer of a member: a few kilobytes.
const maxLiveAnswer = 1 << 20

// maxLiveHeader bounds the header of a member's answer: Patroni sends some hundred bytes. Go's default of 10 MB for each of many members
// could fill the function's memory.
const maxLiveHeader = 16 << 10

var errTooLarge = errors.New("the answer is too large")

// Direct returns an Observer's Get that connects to the addresses of pods. As the API server's proxy does, it encrypts without checking
// the certificate: members have certificates of their own making. Nothing secret is sent, and an answer is only ever a reason to hold or
// to ask Patroni, which checks its members itself. It follows no redirect.
func Direct(dial func(ctx context.Context, address string) (net.Conn, error)) func(context.Context, Member, string) ([]byte, error) {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxLiveHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, m Member, path string) ([]byte, error) { return get(ctx, client, m, path) }
}

func get(ctx context.Context, client *http.Client, m Member, path string) ([]byte, error) {
	address, err := escort.PodAddress(m.IP, m.API.Port)
	if err != nil {
		return nil, err
	}
	target := url.URL{Scheme: "http", Host: address, Path: path}
	if m.API.TLS {
		target.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", target.Host, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", target.Host, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxLiveAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask %s: %w", target.Host, err)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("ask %s: status %d", target.Host, response.StatusCode)
	case len(body) > maxLiveAnswer:
		return nil, fmt.Errorf("ask %s: %w", target.Host, errTooLarge)
	}
	return body, nil
}
