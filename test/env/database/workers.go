package database

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/env/worker/journal"
)

// WorkerGroup is a pod of workers.
type WorkerGroup struct {
	Pod string
	url string
	db  *Database
}

// StartWorkers starts a pod with n workers and waits until it is ready. flags are flags of the worker program.
func (d *Database) StartWorkers(ctx context.Context, n int, flags ...string) (*WorkerGroup, error) {
	first := int(d.workerCount.Add(int32(n))) - n + 1
	err := d.apply(ctx, "workers.yaml", struct {
		Options
		First, Count int
		Flags        []string
	}{d.Options, first, n, flags})
	if err != nil {
		return nil, fmt.Errorf("start workers: %w", err)
	}
	pods, err := d.awaitReady(ctx, labels.Set{"app": "worker-" + strconv.Itoa(first)}, 1)
	if err != nil {
		return nil, fmt.Errorf("start workers: %w", err)
	}
	return &WorkerGroup{Pod: pods[0].Name, url: "http://" + pods[0].Status.PodIP + ":8080", db: d}, nil
}

// Snapshot returns the workers' states and journals.
func (c *WorkerGroup) Snapshot(ctx context.Context) (s journal.Snapshot, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/workers", nil)
	if err != nil {
		return s, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return s, fmt.Errorf("read the workers: %w", err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("decode the answer of the workers: %w", err)
	}
	return s, nil
}

// Stop makes the workers finish their transactions and start no others. Hanging workers keep hanging.
func (c *WorkerGroup) Stop(ctx context.Context) error { return c.post(ctx, "stop") }

// ResetStalls makes the workers forget their stalls so far.
func (c *WorkerGroup) ResetStalls(ctx context.Context) error { return c.post(ctx, "forget") }

func (c *WorkerGroup) post(ctx context.Context, what string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/"+what, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("send %s to the workers: %w", what, err)
	}
	return response.Body.Close()
}

// WorkersPassProbes reports whether all pods of workers are Ready and none of their containers was ever restarted.
func (d *Database) WorkersPassProbes(ctx context.Context) (bool, error) {
	pods, err := d.pods(ctx, labels.Set{"role": "worker"})
	if err != nil {
		return false, err
	}
	for _, p := range pods {
		if !IsReady(p) || Restarts(p) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// Restarts counts how often the containers of a pod started again.
func Restarts(p corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}
