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
	// eventTimeout bounds telling that a drain began, which goes on beside it.
	eventTimeout = 5 * time.Second
	// maxMessageBytes is what an event takes
	// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
	maxMessageBytes = 1024
)

// NodeEvent is what people read who ask Kubernetes about a node. A drain tells of its beginning and of its end: both on the node, since
// its pods are no longer there to be asked about, and each would be a request of its own.
type NodeEvent struct {
	Reason  string     // a word or two, in CamelCase
	Message string     // no more than 1,024 bytes
	Warning bool       // it is not what one wishes for
	Pod     *drain.Ref // that it is about as well; nil: none
}

// The reasons of events.
const (
	eventDraining  = "Draining"
	eventDrained  = "Drained"
	eventPodsForced = "PodsForced"
	eventPodsRemained   = "PodsLeft"
	eventDrainFailed = "DrainFailed"
)

// recordStart tells, beside the drain, that it began. Later slices find the node closed, and say nothing.
func (w *job) recordStart(ctx context.Context, k Kubernetes, node drain.Node) {
	w.record = func(ctx context.Context, e NodeEvent) error { return k.RecordEvent(ctx, node, e) }
	if w.resumed = node.Cordoned.Before(w.report.StartedAt); w.resumed {
		return
	}
	event := NodeEvent{Reason: eventDraining, Message: w.startMessage()}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eventTimeout)
	log, tell := w.log, w.record
	w.recording.Go(func() {
		defer cancel()
		if err := tell(ctx, event); err != nil {
			log.Warn("no event was made", "error", err.Error())
		}
	})
}

// recordEnd tells how the drain ended, if it ever began.
func (w *job) recordEnd(ctx context.Context) {
	if w.record == nil {
		return
	}
	if err := w.record(ctx, w.endEvent()); err != nil {
		w.log.Warn("no event was made", "error", err.Error())
	}
}

func (w *job) startMessage() string {
	why := "by hand"
	switch {
	case w.Trigger != "":
		why = string(w.Trigger)
	case w.Hook != "":
		why = "it is to be terminated, and waits on hook " + w.Hook
	}
	instance := w.InstanceID
	if w.Group != "" {
		instance += " of group " + w.Group
	}
	return fmt.Sprintf("Draining %s: %s. It ends by %s", instance, why, w.report.Deadline.UTC().Format(time.RFC3339))
}

// endEvent names the pods that were forced or left behind, those first that had it worse. As many are named as there is room for.
func (w *job) endEvent() NodeEvent {
	forced, left := w.report.ForcedPods(), w.report.RemainedPods()
	gone := len(slices.DeleteFunc(slices.Clone(w.report.Pods), func(p drain.PodReport) bool { return p.Outcome != drain.Evicted }))
	took := w.report.FinishedAt.Sub(w.Began).Round(time.Second / 10)
	said := []string{fmt.Sprintf("%s in %s: %d pods evicted, %d forced, %d left", w.report.Status, took, gone, len(forced), len(left))}
	if w.resumed {
		said[0] += " since " + w.report.StartedAt.UTC().Format(time.RFC3339)
	}
	if w.report.LifecycleResult != "" {
		said = append(said, "completed with "+string(w.report.LifecycleResult))
	}
	if w.report.Reason != "" {
		said = append(said, w.report.Reason)
	}
	event := NodeEvent{Reason: reasonOf(w.report.Status), Warning: w.report.Status != StatusDrained}
	for _, p := range slices.Concat(left, forced) {
		said = append(said, describe(p))
		event.Pod = cmp.Or(event.Pod, &drain.Ref{Namespace: p.Namespace, Name: p.Name, UID: p.UID})
	}
	event.Message = truncate(maxMessageBytes, strings.Join(said, "; "))
	return event
}

func reasonOf(s Status) string {
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

// truncate cuts a text to so many bytes, and says so.
func truncate(bytes int, text string) string {
	const more = " ..."
	if len(text) <= bytes {
		return text
	}
	return strings.ToValidUTF8(text[:bytes-len(more)], "") + more
}
