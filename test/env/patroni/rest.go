package patroni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// requestTimeout is longer than the longest answer of the REST API: a switchover is waited for, up to 20 s with a loop of 10 s.
const requestTimeout = time.Minute

// Answer is an answer of the REST API (https://patroni.readthedocs.io/en/latest/rest_api.html).
type Answer struct {
	Code int
	Text string
}

// Topology is the answer to GET /cluster, as far as it is used here.
type Topology struct {
	Members []struct {
		Name  string
		Role  string // leader, replica, sync_standby, ...
		State string // running, streaming (from Patroni 3.0.3), ...
	}
	Pause bool
}

// REST sends a request to the REST API of a member, with the password if it has one.
func (c *Cluster) REST(ctx context.Context, member, method, path string, body any) (a Answer, err error) {
	pod, err := c.Member(ctx, member)
	if err != nil {
		return a, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+pod.Status.PodIP+":8008"+path, bytes.NewReader(text))
	if err != nil {
		return a, err
	}
	if c.options.RESTAuth {
		request.SetBasicAuth(RESTUser, RESTPassword)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return a, fmt.Errorf("ask %s: %w", member, err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return Answer{Code: response.StatusCode, Text: string(said)}, err
}

// Switchover asks the leader to switch over to the candidate, and waits for the answer.
func (c *Cluster) Switchover(ctx context.Context, leader, candidate string) (Answer, error) {
	return c.REST(ctx, leader, http.MethodPost, "/switchover", map[string]string{"leader": leader, "candidate": candidate})
}

// Configure changes Patroni's dynamic configuration, such as {"pause": true}.
func (c *Cluster) Configure(ctx context.Context, change map[string]any) error {
	leader, err := c.LeaderName(ctx)
	if err != nil {
		return err
	}
	answer, err := c.REST(ctx, leader, http.MethodPatch, "/config", change)
	if err == nil && answer.Code != http.StatusOK {
		err = fmt.Errorf("the answer is %d: %s", answer.Code, answer.Text)
	}
	if err != nil {
		return fmt.Errorf("configure Patroni: %w", err)
	}
	return nil
}

// Topology returns what the leader knows of all members.
func (c *Cluster) Topology(ctx context.Context) (t Topology, err error) {
	leader, err := c.LeaderName(ctx)
	if err != nil {
		return t, err
	}
	answer, err := c.REST(ctx, leader, http.MethodGet, "/cluster", nil)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(answer.Text), &t); err != nil {
		return t, fmt.Errorf("read the answer %d %q: %w", answer.Code, answer.Text, err)
	}
	return t, nil
}

// Candidate returns the name of a replica that may become the leader: in synchronous mode, of the synchronous standby.
func (c *Cluster) Candidate(ctx context.Context) (string, error) {
	t, err := c.Topology(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range t.Members {
		if m.Role == c.roleOfCandidate() {
			return m.Name, nil
		}
	}
	return "", fmt.Errorf("no member has the role %s: %+v", c.roleOfCandidate(), t)
}

func (c *Cluster) roleOfCandidate() string {
	if c.options.Synchronous {
		return "sync_standby"
	}
	return "replica"
}
