package termination

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
)

const (
	// eventTimeout bounds recording that a drain began, which runs beside the drain.
	eventTimeout = 5 * time.Second
	// maxMessageBytes is the limit of an event's message
	// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
	maxMessageBytes = 1024
)

// NodeEvent is a Kubernetes event on a node. A drain records its beginning and its end, both on the node: its pods no longer exist
// then, and an event for each would be a request for each.
type NodeEvent struct {
	Reason  string     // a word or two, in CamelCase
	Message string     // no more than 1,024 bytes
	Warning bool       // the result is not the desired one
	Pod     *drain.Ref // that the event is about as well; nil: none
}

// The reasons of events.
const (
	eventDraining     = "Draining"
	eventDrained      = "Drained"
	eventPodsForced   = "PodsForced"
	eventPodsRemained = "PodsRemained"
	eventDrainFailed  = "DrainFailed"
)

// announceStart records, beside the drain, that it began. Later invocations find the node cordoned, and record nothing.
func (j *job) announceStart(ctx context.Context, cluster Kubernetes, node drain.Node) {
	j.sendEvent = func(ctx context.Context, e NodeEvent) error { return cluster.RecordEvent(ctx, node, e) }
	if j.resumed = !node.Cordoned.IsZero() && node.Cordoned.Before(j.report.StartedAt); j.resumed {
		return
	}
	event := NodeEvent{Reason: eventDraining, Message: j.startMessage()}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eventTimeout)
	log, record := j.log, j.sendEvent
	j.sending.Go(func() {
		defer cancel()
		if err := record(ctx, event); err != nil {
			log.Warn("failed to create Kubernetes event", "error", err.Error())
		}
	})
}

// announceEnd records how the drain ended, if it ever began.
func (j *job) announceEnd(ctx context.Context) {
	if j.sendEvent == nil {
		return
	}
	if err := j.sendEvent(ctx, j.endEvent()); err != nil {
		j.log.Warn("failed to create Kubernetes event", "error", err.Error())
	}
}

func (j *job) startMessage() string {
	why := "requested manually"
	switch {
	case j.Trigger != "":
		why = string(j.Trigger)
	case j.Hook != "":
		why = "the instance is terminating and waits on hook " + j.Hook
	}
	instance := j.InstanceID
	if j.Group != "" {
		instance += " of group " + j.Group
	}
	return fmt.Sprintf("Draining %s: %s. Deadline: %s", instance, why, j.clock.deadline().UTC().Format(time.RFC3339))
}

// endEvent names as many as there is room for of the pods that remain, and then of the pods that were forced.
func (j *job) endEvent() NodeEvent {
	forced, remained := j.report.ForcedPods(), j.report.RemainedPods()
	evicted := len(j.report.filterPods(func(p drain.PodReport) bool { return p.Outcome == drain.Evicted }))
	took := j.report.FinishedAt.Sub(j.Began).Round(time.Second / 10)
	parts := []string{fmt.Sprintf("%s in %s: %d pods evicted, %d forced, %d remain", j.report.Status, took, evicted, len(forced), len(remained))}
	if j.resumed {
		parts[0] += " since " + j.report.StartedAt.UTC().Format(time.RFC3339)
	}
	if j.report.LifecycleResult != "" {
		parts = append(parts, "completed with "+string(j.report.LifecycleResult))
	}
	if j.report.Reason != "" {
		parts = append(parts, j.report.Reason)
	}
	event := NodeEvent{Reason: eventReason(j.report.Status), Warning: j.report.Status != StatusDrained}
	for _, p := range slices.Concat(remained, forced) {
		parts = append(parts, describe(p))
		event.Pod = cmp.Or(event.Pod, &drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: p.UID})
	}
	event.Message = drain.Cut(strings.Join(parts, "; "), maxMessageBytes)
	return event
}

func eventReason(s Status) string {
	switch s {
	case StatusDrained:
		return eventDrained
	case StatusForced:
		return eventPodsForced
	case StatusPartial:
		return eventPodsRemained
	}
	return eventDrainFailed
}
