package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

const (
	// tellTimeout bounds all events of one step. Clients do not wait for them, but the end of the move does, so that they are sent before
	// the invocation ends.
	tellTimeout = 3 * time.Second
	// tellAtOnce is how many events are created at the same time. More would take room from the requests that clients wait for.
	tellAtOnce = 2
)

// teller tells the owners of poolers and of a primary that clients wait, by Kubernetes events. It is best effort: without the permission
// the first failure is logged, and nothing else changes.
type teller struct {
	cluster Cluster
	log     *slog.Logger
	began   time.Time // of the pause; with the pod and the reason it identifies an event
	sending sync.WaitGroup
	failed  sync.Once
	paused  bool // an event has told that clients wait
}

// tell creates an event about each pod, in the background.
func (t *teller) tell(ctx context.Context, reason drain.PodEventReason, message string, pods []drain.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	queue := make(chan drain.Ref, len(pods))
	for _, pod := range pods {
		queue <- pod
	}
	close(queue)
	var group sync.WaitGroup
	for range min(tellAtOnce, len(pods)) {
		group.Go(func() {
			_ = safely(func() error { t.send(ctx, cancel, reason, message, queue); return nil }) // logged; nothing depends on it
		})
	}
	t.sending.Go(func() {
		defer cancel()
		group.Wait()
	})
}

// send creates events until the queue is empty, or one fails: the others would fail too, and nothing depends on them.
func (t *teller) send(ctx context.Context, stop context.CancelFunc, reason drain.PodEventReason, message string, queue <-chan drain.Ref) {
	for pod := range queue {
		if ctx.Err() != nil {
			return
		}
		event := drain.PodEvent{Pod: pod, Reason: reason, Message: drain.Cut(escort.Printable(message), drain.MaxText), Began: t.began}
		if err := t.cluster.RecordPodEvent(ctx, event); err != nil {
			stop()
			t.failed.Do(func() {
				t.log.Warn("failed to create Kubernetes event about a pod", "pod", pod.String(), "error", escort.Printable(err.Error()))
			})
		}
	}
}

// tellPaused tells that clients wait, why, and for how long at most.
func (m *move) tellPaused(ctx context.Context) {
	if len(m.mark.Poolers) == 0 {
		return
	}
	m.told.cluster, m.told.log, m.told.began, m.told.paused = m.cluster, m.log, m.mark.Since, true
	message := fmt.Sprintf("Paused by quiesce: clients of database %s wait at %d poolers, while its primary moves from %s. They wait %v at most. %s.",
		m.facts.Identity, len(m.mark.Poolers), m.direction(), m.limit, m.why())
	m.told.tell(ctx, drain.ClientsPaused, message, m.toTell(nil))
}

// direction says from where to where the primary moves.
func (m *move) direction() string {
	if name := m.candidateName(); name != "" {
		return m.facts.Leader + " to " + name
	}
	return m.facts.Leader
}

// why says what the move is for.
func (m *move) why() string {
	switch leader := m.facts.LeaderMember(); {
	case m.rehearse:
		return "This is a rehearsal, and the primary stays"
	case m.save != nil && leader != nil:
		return fmt.Sprintf("Node %s is being drained", leader.Node)
	}
	return "A manual invocation of quiesce asks for this move"
}

// tellResumed tells those who were told before that clients go on, but for the poolers that may still be paused.
func (m *move) tellResumed(ctx context.Context, stillPaused []markedPooler) {
	if !m.told.paused {
		return
	}
	outcome := "The primary has not moved"
	switch {
	case m.moved != "":
		outcome = "The primary is " + m.moved + " now"
	case m.begun:
		outcome = "The switchover has begun and is not over"
	}
	message := fmt.Sprintf("Resumed by quiesce after %v: clients of database %s go on. %s.",
		rounded(time.Since(m.pausedAt)), m.facts.Identity, outcome)
	m.told.tell(ctx, drain.ClientsResumed, message, m.toTell(stillPaused))
}

// toTell returns the pods whose owners are told: the leader's, and the poolers that are paused or were, without those that may still be paused.
func (m *move) toTell(stillPaused []markedPooler) (pods []drain.Ref) {
	if leader := m.facts.LeaderMember(); leader != nil && len(stillPaused) == 0 {
		pods = append(pods, leader.Ref)
	}
	return append(pods, refsWithout(m.mark.Poolers, stillPaused)...)
}

func refsWithout(poolers, stillPaused []markedPooler) (pods []drain.Ref) {
	for _, p := range poolers {
		if !slices.ContainsFunc(stillPaused, func(l markedPooler) bool { return l.Ref == p.Ref }) {
			pods = append(pods, p.Ref)
		}
	}
	return pods
}

// tellRecovered tells that clients go on whom an interrupted move had left waiting. The event is the one that the move would have created.
func (e *Escort) tellRecovered(ctx context.Context, cluster Cluster, m *mark, stillPaused []markedPooler) {
	t := teller{cluster: cluster, log: e.log(), began: m.Since}
	message := fmt.Sprintf("Resumed by quiesce: clients of database %s/%s go on. The move of its primary was interrupted.", m.Namespace, m.Cluster)
	t.tell(ctx, drain.ClientsResumed, message, refsWithout(m.Poolers, stillPaused))
	t.sending.Wait()
}
