package database

import (
	"context"
	"fmt"
	"slices"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/parts/lab"
)

// clusterInterval is the time between checks of a cluster that takes seconds to change.
const clusterInterval = 100 * time.Millisecond

// Members are the pods of a database cluster.
type Members struct {
	Lab       *lab.Lab
	Namespace string
	Labels    labels.Set
}

// Await waits for a condition. An error has what was last seen, and the members.
func (m Members) Await(ctx context.Context, what string, check func() (seen string, done bool)) error {
	tick := time.NewTicker(clusterInterval)
	defer tick.Stop()
	for {
		seen, done := check()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			pods, err := podsOf(context.WithoutCancel(ctx), m.Lab, m.Namespace, m.Labels)
			return fmt.Errorf("wait for %s: %w; last seen: %s; the members: %s %v", what, context.Cause(ctx), seen, Describe(pods), err)
		case <-tick.C:
		}
	}
}

// AwaitService waits until a Service leads to this address and to no other.
func (m Members) AwaitService(ctx context.Context, service, address string) error {
	return m.Await(ctx, "the Service "+service+" to lead to "+address, func() (string, bool) {
		addresses, err := m.addressesOf(ctx, service)
		return fmt.Sprintf("%v %v", addresses, err), err == nil && slices.Equal(addresses, []string{address})
	})
}

// addressesOf returns the addresses that kube-proxy gives to clients of a Service.
func (m Members) addressesOf(ctx context.Context, service string) (addresses []string, err error) {
	list, err := m.Lab.Client().DiscoveryV1().EndpointSlices(m.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, fmt.Errorf("list the endpoints: %w", err)
	}
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				addresses = append(addresses, endpoint.Addresses...)
			}
		}
	}
	slices.Sort(addresses)
	return addresses, nil
}

// streaming counts the replicas that are at most a mebibyte behind, Patroni's default limit. What operators themselves say is up to ten
// seconds old, and Patroni before 3.0.3 does not tell a replica that streams from one that merely runs.
const streaming = `SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'pg_basebackup'
	AND pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) < 1048576`

// AwaitStreaming waits until this many replicas stream from the primary, and there is a candidate to succeed it.
func (m Members) AwaitStreaming(ctx context.Context, replicas int, primary, candidate func(context.Context) (string, error)) error {
	return m.Await(ctx, fmt.Sprintf("%d replicas to stream", replicas), func() (string, bool) {
		address, err := primary(ctx)
		if err != nil {
			return err.Error(), false
		}
		rows, err := Query(ctx, address, streaming)
		if err != nil {
			return err.Error(), false
		}
		name, err := candidate(ctx)
		count := string(rows[0][0])
		return fmt.Sprintf("%s replicas stream, candidate %q: %v", count, name, err), err == nil && count == fmt.Sprint(replicas)
	})
}
