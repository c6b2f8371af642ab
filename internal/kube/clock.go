package kube

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// ClockSkew returns by how much this machine's clock is behind the API server's; negative: ahead. It is exact to a second, as the header Date
// of the answer is (RFC 9110, section 6.6.1).
func (c *Client) ClockSkew(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return 0, fmt.Errorf("ask the API server for its time: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(c.config)
	if err != nil {
		return 0, fmt.Errorf("ask the API server for its time: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, base.JoinPath("version").String(), nil)
	if err != nil {
		return 0, fmt.Errorf("ask the API server for its time: %w", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("ask the API server for its time: %w", withoutURL(err))
	}
	answer.Body.Close()
	server, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return 0, fmt.Errorf("the API server does not say its time: %w", err)
	}
	return time.Until(server), nil
}
