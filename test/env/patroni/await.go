package patroni

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"quiesce/test/env/database"
)

// AwaitLeader waits until another member than the former one has the leader key, and returns its name.
func (c *Cluster) AwaitLeader(ctx context.Context, former string) (leader string, err error) {
	err = c.members().Await(ctx, "another leader than "+former, func() (string, bool) {
		leader, err = c.LeaderName(ctx)
		return fmt.Sprintf("%s %v", leader, err), err == nil && leader != "" && leader != former
	})
	return leader, err
}

// awaitAnyLeader waits until a member has the leader key.
func (c *Cluster) awaitAnyLeader(ctx context.Context) error {
	_, err := c.AwaitLeader(ctx, "")
	return err
}

// AwaitReady waits until all members are ready, and returns their pods.
func (c *Cluster) AwaitReady(ctx context.Context) ([]corev1.Pod, error) {
	return database.AwaitReady(ctx, c.lab, c.options.Namespace, c.names.PodLabels(), c.options.Members)
}

// AwaitService waits until the Service leads to this member and to no other.
func (c *Cluster) AwaitService(ctx context.Context, leader string) error {
	pod, err := c.Member(ctx, leader)
	if err != nil {
		return err
	}
	return c.members().AwaitService(ctx, c.names.Scope, pod.Status.PodIP)
}

// AwaitStreaming waits until all members but the leader stream from it, and one of them may become the leader.
func (c *Cluster) AwaitStreaming(ctx context.Context) error {
	return c.members().AwaitStreaming(ctx, c.options.Members-1, c.addressOfLeader, c.Candidate)
}

func (c *Cluster) members() database.Members {
	return database.Members{Lab: c.lab, Namespace: c.options.Namespace, Labels: c.names.PodLabels()}
}
