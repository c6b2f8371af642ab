package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/termination"
)

// The annotations of a Lease. Only quiesce can write there. Whatever cannot be read is ignored all the same.
const (
	// ourAnnotation begins all of them. The key of a record follows: escort.<pod UID>, successor.<controller UID> or phases.<node UID>.
	ourAnnotation = "quiesce/"
	// deadlineAnnotation is on a Lease whose holder has less time than it knows of.
	deadlineAnnotation = ourAnnotation + "deadline"
	// receivedAnnotation is when any invocation received the event of the termination first.
	receivedAnnotation = ourAnnotation + "received"
	// attemptsAnnotation counts the invocations that acquired the Lease, since one released it or a pod was gone.
	attemptsAnnotation = ourAnnotation + "attempts"
	// closedAnnotation begins those that say what was changed on a node; the node's UID follows.
	closedAnnotation = ourAnnotation + "closed."
)

const (
	// maxTermination is how long a lifecycle action lasts at most: 48 hours
	// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html). An older receipt is of an earlier
	// termination, which crashed.
	maxTermination = 48 * time.Hour
	// maxAttempts bounds the count. What a drain does less of is decided far below.
	maxAttempts = 1000
	// maxClosedBytes bounds what is kept of a node. Names of nodes and hooks have at most 255 bytes each.
	maxClosedBytes = 2 << 10
	// maxClosedNodes bounds the nodes that are read from one Lease. A drain closes at most maxCandidates; a later one may find others.
	maxClosedNodes = 4 * maxCandidates
	// maxRecordBytes bounds one record, so that no pod takes the place of others. The phase's name is beside what an escort records.
	maxRecordBytes = escort.MaxRecord + 1<<10
	// maxAnnotationBytes is what the API server allows all annotations of an object to have, keys and values
	// (https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/, TotalAnnotationSizeLimitB).
	maxAnnotationBytes = 256 << 10
	// annotationReserve is kept free of records: for nodes, deadline, receipt and count. Without them no invocation could acquire
	// the Lease.
	annotationReserve = 32 << 10
	// maxSuccessorBytes bounds the records of all successors. The author of a pod can invent controllers, each with a record of 107 bytes. Without
	// a bound, no escort could record what it changes. Six hundred controllers fit. Of one more nothing is recorded, and the next
	// invocation may tell another of its pods to stop.
	maxSuccessorBytes = 64 << 10
)

// FirstReceived implements termination.Lease.
func (l *lease) FirstReceived() time.Time { return firstReceived(l.current()) }

// UncleanEnds implements termination.Lease.
func (l *lease) UncleanEnds() int { return l.unclean }

// PodGone implements termination.Lease.
func (l *lease) PodGone() { l.podGone.Store(true) }

// Record implements drain.Records.
func (l *lease) Record(key string) string {
	if !isRecord(ourAnnotation + key) {
		return ""
	}
	return l.current().Annotations[ourAnnotation+key]
}

// SetRecord implements drain.Records.
func (l *lease) SetRecord(ctx context.Context, key, text string) error {
	err := l.write(ctx, func(next *coordinationv1.Lease) error {
		annotate(next, ourAnnotation+key, text)
		size, successors := annotationBytes(next, ""), annotationBytes(next, ourAnnotation+drain.SuccessorRecord)
		switch {
		case !isRecord(ourAnnotation + key):
			return errors.New("no drain makes a record of this kind")
		case text != "" && len(text) > maxRecordBytes:
			return fmt.Errorf("it has %d bytes, and at most %d fit", len(text), maxRecordBytes)
		case text != "" && size > maxAnnotationBytes-annotationReserve:
			return fmt.Errorf("the lease would have %d bytes of annotations, and at most %d fit", size, maxAnnotationBytes-annotationReserve)
		case text != "" && isSuccessor(ourAnnotation+key) && successors > maxSuccessorBytes:
			return fmt.Errorf("records of successors would have %d bytes, and at most %d fit", successors, maxSuccessorBytes)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write record %.100s on lease %s: %w", key, l.current().Name, bounded(err))
	}
	return nil
}

// readRecords are the records of a Lease that this invocation does not hold.
type readRecords struct{ object *coordinationv1.Lease }

// ReadRecords implements termination.Kubernetes. An instance without a Lease has no records.
func (c *Client) ReadRecords(ctx context.Context, instanceID string) (drain.Records, error) {
	found, err := c.getLease(ctx, instanceID)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get lease %s: %w", instanceID, bounded(err))
	}
	return readRecords{found}, nil
}

// Record implements drain.Records.
func (r readRecords) Record(key string) string { return r.object.Annotations[ourAnnotation+key] }

// SetRecord implements drain.Records.
func (r readRecords) SetRecord(_ context.Context, key, _ string) error {
	return fmt.Errorf("write record %.100s: the lease is not held", key)
}

// Closed implements termination.Lease.
func (l *lease) Closed() []termination.ClosedNode { return closedNodes(l.current()) }

// Escorted implements termination.Lease.
func (l *lease) Escorted() []string { return escortedPods(l.current()) }

// SetClosed implements termination.Lease.
func (l *lease) SetClosed(ctx context.Context, n termination.ClosedNode) error {
	text, err := json.Marshal(n)
	if err == nil && len(text) > maxClosedBytes {
		err = fmt.Errorf("it has %d bytes, and at most %d fit", len(text), maxClosedBytes)
	}
	if err == nil {
		err = l.setAnnotation(ctx, closedAnnotation+n.UID, string(text))
	}
	if err != nil {
		return fmt.Errorf("write what is changed on node %s on lease %s: %w", n.Name, l.current().Name, bounded(err))
	}
	return nil
}

// ForgetClosed implements termination.Lease.
func (l *lease) ForgetClosed(ctx context.Context, nodeUID string) error {
	key := closedAnnotation + nodeUID
	if l.has(key, "") {
		return nil
	}
	if err := l.setAnnotation(ctx, key, ""); err != nil {
		return fmt.Errorf("forget what was changed on node %s on lease %s: %w", nodeUID, l.current().Name, bounded(err))
	}
	return nil
}

func (l *lease) setAnnotation(ctx context.Context, key, text string) error {
	return l.write(ctx, func(next *coordinationv1.Lease) error {
		annotate(next, key, text)
		return nil
	})
}

// trim removes our annotations that are not kept, and reports whether any is left. An invocation that releases the Lease ended
// cleanly, so nothing is counted.
func trim(l *coordinationv1.Lease, keep termination.Keep) (left bool) {
	for key := range l.Annotations {
		switch {
		case !strings.HasPrefix(key, ourAnnotation):
		case key != attemptsAnnotation && keep >= keptFrom(key):
			left = true
		default:
			delete(l.Annotations, key)
		}
	}
	return left
}

// keptFrom returns the least that keeps the annotation. What only this drain needs is kept only for its next invocation. The deadline of
// a Spot interruption is one for every drain of the instance.
func keptFrom(key string) termination.Keep {
	switch {
	case strings.HasPrefix(key, closedAnnotation), key == deadlineAnnotation:
		return termination.KeepClosed
	case strings.HasPrefix(key, ourAnnotation+drain.EscortRecord):
		return termination.KeepRecords
	}
	return termination.KeepAll
}

func isRecord(key string) bool {
	return strings.HasPrefix(key, ourAnnotation+drain.EscortRecord) || strings.HasPrefix(key, ourAnnotation+drain.PhasesRecord) || isSuccessor(key)
}

func isSuccessor(key string) bool { return strings.HasPrefix(key, ourAnnotation+drain.SuccessorRecord) }

// closedNodes returns what a Lease says of nodes, the first closed first. What is not as SetClosed writes it is ignored.
func closedNodes(l *coordinationv1.Lease) (nodes []termination.ClosedNode) {
	for key, text := range l.Annotations {
		uid, is := strings.CutPrefix(key, closedAnnotation)
		var n termination.ClosedNode
		if is && len(text) <= maxClosedBytes && json.Unmarshal([]byte(text), &n) == nil && n.UID == uid && n.Name != "" {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b termination.ClosedNode) int {
		return cmp.Or(a.CordonedAt.Compare(b.CordonedAt), strings.Compare(a.UID, b.UID))
	})
	return nodes[:min(len(nodes), maxClosedNodes)]
}

// firstReceived returns the first receipt that the Lease has of its present termination; zero: none.
func firstReceived(l *coordinationv1.Lease) time.Time {
	received := annotatedTime(l, receivedAnnotation)
	if time.Since(received) > maxTermination {
		return time.Time{}
	}
	return received
}

// attempts returns the count of a Lease; zero if it has none that can be read.
func attempts(l *coordinationv1.Lease) int {
	n, err := strconv.Atoi(l.Annotations[attemptsAnnotation])
	if err != nil {
		return 0
	}
	return min(max(n, 0), maxAttempts)
}

// annotatedTime returns a time from an annotation; zero if it has none that can be read.
func annotatedTime(l *coordinationv1.Lease, key string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, l.Annotations[key])
	if err != nil {
		return time.Time{}
	}
	return t
}

// timeText returns the time for an annotation; empty if it is unknown.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// annotate sets an annotation. An empty text removes it.
func annotate(l *coordinationv1.Lease, key, text string) {
	if text == "" {
		delete(l.Annotations, key)
		return
	}
	metav1.SetMetaDataAnnotation(&l.ObjectMeta, key, text)
}

// annotationBytes returns the size of the annotations whose keys begin so, keys and values.
func annotationBytes(l *coordinationv1.Lease, prefix string) (size int) {
	for key, text := range l.Annotations {
		if strings.HasPrefix(key, prefix) {
			size += len(key) + len(text)
		}
	}
	return size
}
