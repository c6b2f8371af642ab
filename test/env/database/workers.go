package database

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/env/worker/ledger"
)

// Crew is a pod of workers.
type Crew struct {
	Pod string
	url string
	db  *Database
}

// Hire starts a pod with n workers and waits until it is ready. flags are the worker program's.
func (d *Database) Hire(ctx context.Context, n int, flags ...string) (*Crew, error) {
	first := int(d.workers.Add(int32(n))) - n + 1
	err := d.apply(ctx, "workers.yaml", struct {
		Options
		First, Count int
		Flags        []string
	}{d.Options, first, n, flags})
	if err != nil {
		return nil, fmt.Errorf("hire workers: %w", err)
	}
	pods, err := d.ready(ctx, labels.Set{"app": "worker-" + strconv.Itoa(first)}, 1)
	if err != nil {
		return nil, fmt.Errorf("hire workers: %w", err)
	}
	return &Crew{Pod: pods[0].Name, url: "http://" + pods[0].Status.PodIP + ":8080", db: d}, nil
}

// Snapshot asks the workers what they do and what they believe they did.
func (c *Crew) Snapshot(ctx context.Context) (s ledger.Snapshot, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/workers", nil)
	if err != nil {
		return s, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return s, fmt.Errorf("ask the workers: %w", err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("read what the workers say: %w", err)
	}
	return s, nil
}

// Dismiss tells the workers to end their transactions and begin no other. Workers that hang stay where they are.
func (c *Crew) Dismiss(ctx context.Context) error { return c.tell(ctx, "stop") }

// Forget tells the workers to forget their stalls so far.
func (c *Crew) Forget(ctx context.Context) error { return c.tell(ctx, "forget") }

func (c *Crew) tell(ctx context.Context, what string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/"+what, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("tell the workers to %s: %w", what, err)
	}
	return response.Body.Close()
}

// WorkersAreGreen tells whether every probe of the workers is: each of their pods is Ready, and no container of theirs was ever
// restarted.
func (d *Database) WorkersAreGreen(ctx context.Context) (bool, error) {
	pods, err := d.pods(ctx, labels.Set{"role": "worker"})
	if err != nil {
		return false, err
	}
	for _, p := range pods {
		if !IsReady(p) || restarts(p) > 0 {
			return false, nil
		}
	}
	return true, nil
}

func restarts(p corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}
