package main

import (
	"context"

	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/pgbouncer"
)

// pooling is the cluster as pgbouncer's escort sees it. Amend, Forward, Serving and Hold are the client's own.
type pooling struct{ *kube.Client }

var _ pgbouncer.Kubernetes = pooling{}

// Inspect implements pgbouncer.Pods.
func (p pooling) Inspect(ctx context.Context, ref drain.Ref) (*pgbouncer.Pod, error) {
	pod, err := p.Client.Inspect(ctx, ref)
	if pod == nil || err != nil {
		return nil, err
	}
	return &pgbouncer.Pod{
		Ref: pod.Ref, Node: pod.Node, IP: pod.IP, Labels: pod.Labels, Annotations: pod.Annotations, Ready: pod.Ready,
		Deleted: pod.Deleted, Grace: pod.Grace, Owner: pgbouncer.Owner(pod.Owner), Containers: each(pod.Containers, toContainer),
	}, nil
}

// Around implements pgbouncer.Surroundings.
func (p pooling) Around(ctx context.Context, pod pgbouncer.Pod) (pgbouncer.Around, error) {
	around, err := p.Client.Around(ctx, selected(pod))
	if err != nil {
		return pgbouncer.Around{}, err
	}
	return pgbouncer.Around{
		Owner: (*pgbouncer.Selecting)(around.Owner), Replicas: around.Replicas, Services: each(around.Services, toSelecting),
		Budgets: each(around.Budgets, toBudget), Policies: each(around.Policies, toSelecting),
	}, nil
}

// Peers implements pgbouncer.Surroundings.
func (p pooling) Peers(ctx context.Context, pod pgbouncer.Pod) ([]pgbouncer.Peer, error) {
	peers, err := p.Client.Peers(ctx, selected(pod))
	return each(peers, func(peer kube.Peer) pgbouncer.Peer { return pgbouncer.Peer(peer) }), err
}

// selected is what of a pod others select it by.
func selected(p pgbouncer.Pod) kube.Pod {
	return kube.Pod{Ref: p.Ref, Labels: p.Labels, Owner: kube.Owner(p.Owner)}
}

func toContainer(c kube.Container) pgbouncer.Container {
	return pgbouncer.Container{
		Name: c.Name, Image: c.Image, PreStop: c.PreStop, Liveness: pgbouncer.LivenessProbe(c.Liveness),
		Ports: each(c.Ports, func(p kube.Port) pgbouncer.Port { return pgbouncer.Port(p) }),
	}
}

func toBudget(b kube.Budget) pgbouncer.Budget {
	return pgbouncer.Budget{Selecting: toSelecting(b.Selecting), Allowed: b.Allowed, Never: b.Never}
}

func toSelecting(s kube.Selecting) pgbouncer.Selecting { return pgbouncer.Selecting(s) }

func each[From, To any](all []From, to func(From) To) []To {
	var made []To
	for _, one := range all {
		made = append(made, to(one))
	}
	return made
}
