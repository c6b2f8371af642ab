package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

func TestGroupLease_Released_IsDeleted(t *testing.T) {
	s := newLabEnv(t)
	release, held, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	_, again, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.False(t, again, "not even by the same process")

	require.NoError(t, release())
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Get(t.Context(), s.namespace, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
}

func TestGroupLease_ContextEnded_StillReleased(t *testing.T) {
	s := newLabEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	release, held, err := s.client.AcquireGroupLease(ctx, s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	cancel()
	require.NoError(t, release())
	release, held, err = s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, release())
}

// If a sweep does not see a held Lease, it resends events of running drains. If it counts an expired Lease as held, a crashed drain is
// not resumed.
func TestLeases_HeldAndExpired_AreListed(t *testing.T) {
	s := newLabEnv(t)
	release, held, err := s.client.AcquireGroupLease(t.Context(), s.namespace)
	require.NoError(t, err)
	require.True(t, held)
	crashed, long := "crashed-"+s.namespace, metav1.NewMicroTime(time.Now().Add(-leaseDuration-time.Second))
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: crashed}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &crashed, RenewTime: &long},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	leases, err := s.client.Leases(t.Context())
	require.NoError(t, err)
	require.Contains(t, leases, termination.LeaseInfo{Name: s.namespace, Held: true})
	require.Contains(t, leases, termination.LeaseInfo{Name: crashed})
	require.NoError(t, release())
	leases, err = s.client.Leases(t.Context())
	require.NoError(t, err)
	require.NotContains(t, leases, termination.LeaseInfo{Name: s.namespace, Held: true})

	require.NoError(t, s.client.DeleteFreeLease(t.Context(), crashed))
	require.NoError(t, s.client.DeleteFreeLease(t.Context(), crashed), "it is gone already")
	leases, err = s.client.Leases(t.Context())
	require.NoError(t, err)
	require.NotContains(t, leases, termination.LeaseInfo{Name: crashed})
}

// A plan reads the records of a drain that runs. Their keys have the longest names that they can have.
func TestReadRecords_LeaseHeldElsewhere_ReadOnly(t *testing.T) {
	s := newLabEnv(t)
	none, err := s.client.ReadRecords(t.Context(), s.namespace)
	require.NoError(t, err)
	key := drain.SuccessorRecord + strings.Repeat("a", uuidLength) + "." + strings.Repeat("0", 16)
	require.Empty(t, none.Record(key))

	held, err := s.client.AcquireLease(t.Context(), s.namespace, termination.Acquisition{})
	require.NoError(t, err)
	require.NoError(t, held.SetRecord(t.Context(), key, "pod-1"))
	records, err := s.client.ReadRecords(t.Context(), s.namespace)
	require.NoError(t, err)
	require.Equal(t, "pod-1", records.Record(key))
	require.ErrorContains(t, records.SetRecord(t.Context(), key, "pod-2"), "not held")
	require.NoError(t, held.Release(termination.KeepNothing))
	_, err = s.client.ReadRecords(t.Context(), "../../pods/bait")
	require.Error(t, err, "the name of a node's instance comes from its kubelet")
}

func (s *labEnv) lease(name string) (*coordinationv1.Lease, error) {
	return s.Client().CoordinationV1().Leases(leaseNamespace).Get(s.Context(), name, metav1.GetOptions{})
}

// acquired is a Lease that this test holds, without renewals beside those that it makes itself.
func (s *labEnv) acquired(name string, shorten func(time.Time)) *lease {
	s.Helper()
	return s.acquiredWith(name, termination.Acquisition{Shorten: shorten})
}

func (s *labEnv) acquiredWith(name string, a termination.Acquisition) *lease {
	s.Helper()
	l, err := s.client.AcquireLease(s.Context(), name, a)
	require.NoError(s, err)
	require.NotNil(s, l)
	return l.(*lease)
}

// expire ages the Lease, as if its holder had crashed.
func (s *labEnv) expire(l *lease) {
	s.Helper()
	l.stop()
	require.NoError(s, l.write(s.Context(), func(next *coordinationv1.Lease) error {
		long := metav1.NewMicroTime(time.Now().Add(-leaseDuration - time.Second))
		next.Spec.RenewTime = &long
		return nil
	}))
}

func ignore(time.Time) {}

func TestShortenDeadline_LeaseHeld_HolderReadsItAtItsNextRenewal(t *testing.T) {
	s := newLabEnv(t)
	deadline, heard := time.Now().Add(time.Minute), make(chan time.Time, 10)
	l := s.acquired(s.namespace, func(deadline time.Time) { heard <- deadline })

	require.NoError(t, l.renewOnce(t.Context()))
	require.Empty(t, heard)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	require.NoError(t, l.renewOnce(t.Context()))
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline), "the event is delivered again")
	require.NoError(t, l.renewOnce(t.Context()))
	require.WithinDuration(t, deadline, <-heard, 0)

	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline.Add(time.Second)))
	require.NoError(t, l.Release(termination.KeepNothing))
	_, err := s.lease(s.namespace)
	require.True(t, apierrors.IsNotFound(err), "not only when it expires")
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline), "no invocation is to be told")
}

func TestShortenDeadline_HolderCrashes_NextHolderReadsIt(t *testing.T) {
	s := newLabEnv(t)
	crashed := s.acquired(s.namespace, ignore)
	deadline := time.Now().Add(time.Minute)
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	s.expire(crashed)

	heard := make(chan time.Time, 10)
	hear := func(deadline time.Time) { heard <- deadline }
	lease, err := s.client.AcquireLease(t.Context(), s.namespace, termination.Acquisition{Shorten: hear})
	require.NoError(t, err)
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, lease.Release(termination.KeepAll))

	lease, err = s.client.AcquireLease(t.Context(), s.namespace, termination.Acquisition{Shorten: hear})
	require.NoError(t, err)
	require.NotNil(t, lease, "it was handed off")
	require.WithinDuration(t, deadline, <-heard, 0)
	require.NoError(t, lease.Release(termination.KeepClosed))

	lease, err = s.client.AcquireLease(t.Context(), s.namespace, termination.Acquisition{Shorten: hear})
	require.NoError(t, err)
	require.WithinDuration(t, deadline, <-heard, 0, "the instance has no more time for another drain")
	require.NoError(t, lease.Release(termination.KeepNothing))
	_, err = s.lease(s.namespace)
	require.True(t, apierrors.IsNotFound(err))
}

func TestAcquireLease_Deadline_ReplacesAnEarlierDrains(t *testing.T) {
	s := newLabEnv(t)
	first, second := time.Now().Add(-time.Hour), time.Now().Add(time.Minute)
	l := s.acquiredWith(s.namespace, termination.Acquisition{Deadline: first})
	require.NoError(t, l.Release(termination.KeepRecords))
	heard := make(chan time.Time, 10)
	l = s.acquiredWith(s.namespace, termination.Acquisition{Deadline: second, Shorten: func(d time.Time) { heard <- d }})
	require.WithinDuration(t, second, <-heard, 0)
	require.NoError(t, l.Release(termination.KeepNothing))
}

// A warning that comes again later, or is forged, gains no time.
func TestShortenDeadline_LaterThanTheFirst_ChangesNothing(t *testing.T) {
	s := newLabEnv(t)
	client, first := s.client, time.Now().Add(time.Minute).UTC()
	l := s.acquiredWith(s.namespace, termination.Acquisition{Deadline: first})
	require.NoError(t, client.ShortenDeadline(t.Context(), s.namespace, first.Add(time.Minute)))
	require.NoError(t, l.Release(termination.KeepRecords))
	heard := make(chan time.Time, 10)
	l = s.acquiredWith(s.namespace, termination.Acquisition{Deadline: first.Add(time.Minute), Shorten: func(d time.Time) { heard <- d }})
	require.WithinDuration(t, first, <-heard, 0)
	require.NoError(t, client.ShortenDeadline(t.Context(), s.namespace, first.Add(-time.Second)))
	require.Eventually(t, func() bool { return (<-heard).Equal(first.Add(-time.Second)) }, 3*leaseRenewal, pollInterval)
	require.NoError(t, l.Release(termination.KeepNothing))
}

// After an outage the holder must be faster than another invocation, which would take an expired Lease.
func TestLease_RenewalFails_RepeatedSoon(t *testing.T) {
	s := newLabEnv(t)
	var down atomic.Bool
	through := &network{answer: func(r *http.Request) *http.Response {
		if !down.Load() || r.Method != http.MethodPut {
			return nil
		}
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody, Request: r}
	}}
	l, err := s.clientThrough(through).AcquireLease(t.Context(), s.namespace, termination.Acquisition{Shorten: ignore})
	require.NoError(t, err)
	down.Store(true)
	path := "PUT /apis/coordination.k8s.io/v1/namespaces/quiesce/leases/" + s.namespace
	// With leaseRenewal between them, four renewals would take forty seconds.
	require.Eventually(t, func() bool { return through.requests(path) >= 4 }, 3*leaseRenewal, pollInterval)
	down.Store(false)
	require.NoError(t, l.Release(termination.KeepNothing))
}

// After an outage that outlasted the Lease, its holder must learn from any write that it is not the holder any more.
func TestLease_TakenByAnother_HolderIsToldOnce(t *testing.T) {
	for name, write := range map[string]func(*lease) error{
		"renewal": func(l *lease) error { return l.renewOnce(t.Context()) },
		"record":  func(l *lease) error { return l.SetRecord(t.Context(), "escort.a", "paused") },
		"node":    func(l *lease) error { return l.SetClosed(t.Context(), termination.ClosedNode{Name: "n", UID: "1"}) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, after := range []string{"held", "deleted"} {
				s, told := newLabEnv(t), 0
				l := s.acquiredWith(s.namespace, termination.Acquisition{Lost: func() { told++ }})
				require.NoError(t, l.renewOnce(t.Context()))
				require.Zero(t, told)
				s.expire(l)
				next := s.acquired(s.namespace, ignore)
				if after == "deleted" {
					require.NoError(t, next.Release(termination.KeepNothing))
				}
				require.Error(t, write(l))
				require.Error(t, write(l))
				require.Equal(t, 1, told, after)
				require.NoError(t, l.Release(termination.KeepNothing), "nothing of another's is changed")
				require.NoError(t, next.Release(termination.KeepNothing))
			}
		})
	}
}

func TestLease_HeldByAnother_IsNil(t *testing.T) {
	s := newLabEnv(t)
	held := s.acquired(s.namespace, ignore)
	lease, err := s.client.AcquireLease(t.Context(), s.namespace, termination.Acquisition{Shorten: ignore})
	require.NoError(t, err)
	require.True(t, lease == nil, "a nil interface, not a nil pointer in one")
	require.NoError(t, held.Release(termination.KeepNothing))
}

func TestLease_Records_OutliveCrashAndHandOff(t *testing.T) {
	s := newLabEnv(t)
	crashed := s.acquired(s.namespace, ignore)
	require.NoError(t, crashed.SetRecord(t.Context(), "escort.a", "paused"))
	require.NoError(t, crashed.SetRecord(t.Context(), "escort.b", "paused"))
	require.Equal(t, []string{"a", "b"}, crashed.Escorted())
	require.Equal(t, "paused", crashed.Record("escort.a"))
	require.NoError(t, crashed.renewOnce(t.Context()), "renewals and records do not fight")
	s.expire(crashed)

	next := s.acquired(s.namespace, ignore)
	require.Equal(t, "paused", next.Record("escort.a"))
	require.ErrorIs(t, crashed.SetRecord(t.Context(), "escort.c", "paused"), errLeaseLost)
	require.NoError(t, crashed.Release(termination.KeepNothing), "it is another's")
	require.NoError(t, next.SetRecord(t.Context(), "escort.b", ""))
	require.NoError(t, next.Release(termination.KeepRecords))
	left, err := s.lease(s.namespace)
	require.NoError(t, err)
	require.Equal(t, map[string]string{ourAnnotation + "escort.a": "paused"}, left.Annotations)
	require.Nil(t, left.Spec.HolderIdentity)

	last := s.acquired(s.namespace, ignore)
	require.Equal(t, "paused", last.Record("escort.a"))
	require.NoError(t, last.Release(termination.KeepNothing))
	_, err = s.lease(s.namespace)
	require.True(t, apierrors.IsNotFound(err))
}

// A record is written while a renewal, or a shorter deadline, changes the Lease.
// After an outage a Lease has expired, and nobody has taken it: what its holder writes then must keep others off.
func TestSetRecord_LeaseExpired_IsRenewed(t *testing.T) {
	s := newLabEnv(t)
	l := s.acquired(s.namespace, ignore)
	s.expire(l)
	require.NoError(t, l.SetRecord(t.Context(), "escort.a", "paused"))
	other, err := s.client.AcquireLease(t.Context(), s.namespace, termination.Acquisition{Shorten: ignore})
	require.NoError(t, err)
	require.True(t, other == nil, "it is held")
	require.NoError(t, l.Release(termination.KeepNothing))
}

func TestLease_SetRecordDuringOtherWrites_NothingIsLost(t *testing.T) {
	s := newLabEnv(t)
	l := s.acquired(s.namespace, ignore)
	deadline := time.Now().Add(time.Minute)
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() { require.NoError(t, l.SetRecord(t.Context(), fmt.Sprint("escort.", n), "paused")) })
		group.Go(func() { require.NoError(t, l.renewOnce(t.Context())) })
	}
	group.Wait()
	require.NoError(t, s.client.ShortenDeadline(t.Context(), s.namespace, deadline))
	require.NoError(t, l.SetRecord(t.Context(), "escort.last", "paused"))
	left, err := s.lease(s.namespace)
	require.NoError(t, err)
	require.Len(t, left.Annotations, 11, "with the count of attempts")
	require.NoError(t, l.Release(termination.KeepNothing))
}

// An escort has seconds. It does not wait for a renewal that hangs.
func TestSetRecord_AnotherRequestHangs_EndsWithItsContext(t *testing.T) {
	l := &lease{writing: make(chan struct{}, 1), object: &coordinationv1.Lease{}}
	l.writing <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.SetRecord(ctx, "escort.a", "paused"), context.Canceled)
	require.Empty(t, l.Record("escort.a"))
}

// Receive counts grow by hand-off too. Only invocations that hold the Lease, and end without releasing it, have failed.
func TestLease_UncleanEnds_AreCountedUntilAPodIsGone(t *testing.T) {
	s := newLabEnv(t)
	first := s.acquired(s.namespace, ignore)
	require.Zero(t, first.UncleanEnds())
	require.NoError(t, first.Release(termination.KeepAll))
	for n := range 3 {
		l := s.acquired(s.namespace, ignore)
		require.Equal(t, n, l.UncleanEnds())
		require.NoError(t, l.renewOnce(t.Context()))
		require.NoError(t, l.SetRecord(t.Context(), "escort.a", "paused"))
		s.expire(l)
	}
	handedOff := s.acquired(s.namespace, ignore)
	require.Equal(t, 3, handedOff.UncleanEnds())
	require.NoError(t, handedOff.Release(termination.KeepAll))

	again := s.acquired(s.namespace, ignore)
	require.Zero(t, again.UncleanEnds(), "it was released")
	s.expire(again)
	progress := s.acquired(s.namespace, ignore)
	require.Equal(t, 1, progress.UncleanEnds())
	progress.PodGone()
	require.NoError(t, progress.renewOnce(t.Context()))
	require.Equal(t, 1, progress.UncleanEnds(), "it is about invocations before this one")
	s.expire(progress)
	last := s.acquired(s.namespace, ignore)
	require.Zero(t, last.UncleanEnds(), "a pod was gone")
	require.NoError(t, last.Release(termination.KeepNothing))
}

func TestLease_FirstReceived_EarliestOfAllInvocations(t *testing.T) {
	s := newLabEnv(t)
	at := time.Now().Add(-time.Minute)
	received := func(t time.Time) termination.Acquisition { return termination.Acquisition{Received: t} }
	l := s.acquiredWith(s.namespace, received(time.Time{}))
	require.Zero(t, l.FirstReceived())
	require.NoError(t, l.SetRecord(t.Context(), "escort.a", "paused"))
	for _, c := range []struct{ received, first time.Time }{{at, at}, {at.Add(time.Second), at}, {time.Time{}, at}, {at.Add(-time.Hour), at.Add(-time.Hour)}} {
		require.NoError(t, l.Release(termination.KeepAll))
		l = s.acquiredWith(s.namespace, received(c.received))
		require.WithinDuration(t, c.first, l.FirstReceived(), 0)
		leases, err := s.client.Leases(t.Context())
		require.NoError(t, err)
		i := slices.IndexFunc(leases, func(info termination.LeaseInfo) bool { return info.Name == s.namespace })
		require.WithinDuration(t, c.first, leases[i].Received, 0, "a sweep sees it")
	}
	require.NoError(t, l.Release(termination.KeepRecords))
	l = s.acquiredWith(s.namespace, received(at))
	require.WithinDuration(t, at, l.FirstReceived(), 0, "the next termination has its own")
	require.NoError(t, l.setAnnotation(t.Context(), receivedAnnotation, timeText(at.Add(-maxTermination))))
	s.expire(l)
	l = s.acquiredWith(s.namespace, received(at))
	require.WithinDuration(t, at, l.FirstReceived(), 0, "no termination lasts that long")
	require.NoError(t, l.Release(termination.KeepNothing))
}

func TestLease_ClosedNodes_AreKeptListedAndForgotten(t *testing.T) {
	s := newLabEnv(t)
	at := time.Now().UTC().Round(0)
	one := termination.ClosedNode{Name: "node-a", UID: "1", Hook: "quiesce", Began: at, CordonedAt: at, Unschedulable: true}
	two := termination.ClosedNode{Name: "node-b", UID: "2", Trigger: "spot", Began: at, CordonedAt: at.Add(time.Second), Excluded: true}
	l := s.acquired(s.namespace, ignore)
	require.Empty(t, l.Closed())
	require.NoError(t, l.SetClosed(t.Context(), two))
	require.NoError(t, l.SetClosed(t.Context(), one))
	require.Equal(t, []termination.ClosedNode{one, two}, l.Closed())
	leases, err := s.client.Leases(t.Context())
	require.NoError(t, err)
	require.Contains(t, leases, termination.LeaseInfo{Name: s.namespace, Held: true, Closed: []termination.ClosedNode{one, two}})
	s.expire(l)

	next := s.acquired(s.namespace, ignore)
	require.Equal(t, []termination.ClosedNode{one, two}, next.Closed())
	require.NoError(t, next.ForgetClosed(t.Context(), "1"))
	require.NoError(t, next.ForgetClosed(t.Context(), "1"))
	require.Equal(t, []termination.ClosedNode{two}, next.Closed())
	require.ErrorIs(t, l.SetClosed(t.Context(), one), errLeaseLost)
	long := one
	long.Name = strings.Repeat("a", maxClosedBytes)
	require.ErrorContains(t, next.SetClosed(t.Context(), long), "at most 2048 fit")
	require.NoError(t, next.Release(termination.KeepNothing))
}

func TestTrim_EachKeep_KeepsWhatItSays(t *testing.T) {
	const foreign = "example.com/note"
	all := map[string]termination.Keep{ // what keeps it, at least
		ourAnnotation + "closed.1": termination.KeepClosed, ourAnnotation + "escort.2": termination.KeepRecords,
		ourAnnotation + "successor.3": termination.KeepAll, ourAnnotation + "phases.4": termination.KeepAll, receivedAnnotation: termination.KeepAll,
		deadlineAnnotation: termination.KeepClosed, ourAnnotation + "of a later version": termination.KeepAll,
	}
	for _, keep := range []termination.Keep{termination.KeepNothing, termination.KeepClosed, termination.KeepRecords, termination.KeepAll} {
		l, want := &coordinationv1.Lease{}, map[string]string{foreign: "a"}
		annotate(l, foreign, "a")
		annotate(l, attemptsAnnotation, "2")
		for key, least := range all {
			annotate(l, key, "a")
			if keep >= least {
				want[key] = "a"
			}
		}
		require.Equal(t, len(want) > 1, trim(l, keep), "what is not ours keeps no Lease")
		require.Equal(t, want, l.Annotations)
	}
}

// People edit objects by hand.
func TestLease_Garbage_IsIgnored(t *testing.T) {
	s := newLabEnv(t)
	far := metav1.NewMicroTime(time.Now().AddDate(100, 0, 0))
	holder := "someone"
	annotations := map[string]string{
		attemptsAnnotation: "-7", receivedAnnotation: "yesterday", deadlineAnnotation: "soon",
		closedAnnotation + "1": "{", closedAnnotation + "2": `{"name":"node-a","uid":"another"}`, closedAnnotation + "3": "null",
		closedAnnotation + "4": `{"name":"node-a","uid":"4","began":7}`, closedAnnotation: "{}",
		closedAnnotation + "5": `{"name":"` + strings.Repeat("a", maxClosedBytes) + `","uid":"5"}`,
	}
	_, err := s.Client().CoordinationV1().Leases(leaseNamespace).Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: s.namespace, Annotations: map[string]string{attemptsAnnotation: "many"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &far},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	l := s.acquired(s.namespace, func(time.Time) { t.Error("there is no deadline") })
	require.Zero(t, l.UncleanEnds())

	delete(annotations, closedAnnotation) // no valid key
	found, err := s.lease(s.namespace)
	require.NoError(t, err)
	found.Annotations, found.Spec = annotations, coordinationv1.LeaseSpec{}
	_, err = s.Client().CoordinationV1().Leases(leaseNamespace).Update(t.Context(), found, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.ErrorIs(t, l.SetRecord(t.Context(), "escort.a", "paused"), errLeaseLost)
	require.NoError(t, l.Release(termination.KeepAll))

	l = s.acquired(s.namespace, func(time.Time) { t.Error("there is no deadline") })
	require.Zero(t, l.UncleanEnds())
	require.Zero(t, l.FirstReceived())
	require.Empty(t, l.Closed())
	require.Empty(t, l.Record("attempts"))
	require.NoError(t, l.Release(termination.KeepNothing))
	require.Equal(t, maxAttempts, attempts(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Annotations: map[string]string{attemptsAnnotation: "1000000"},
	}}))
}

// etcd and the API server bound an object. A record that does not fit must not cost the invocation its Lease.
func TestSetRecord_DoesNotFit_ErrorNamesItAndRenewalsGoOn(t *testing.T) {
	s := newLabEnv(t)
	l := s.acquired(s.namespace, ignore)
	require.ErrorContains(t, l.SetRecord(t.Context(), "escort.large", strings.Repeat("a", maxRecordBytes+1)), "write record escort.large on lease")
	require.ErrorContains(t, l.SetRecord(t.Context(), "attempts", "0"), "no drain makes a record of this kind")
	var err error
	stored := 0
	for ; err == nil; stored++ {
		err = l.SetRecord(t.Context(), fmt.Sprint("escort.", stored), strings.Repeat("a", maxRecordBytes))
	}
	require.ErrorContains(t, err, "bytes of annotations, and at most")
	require.Greater(t, stored, 5)
	require.NoError(t, l.renewOnce(t.Context()))
	closed := termination.ClosedNode{Name: "node-a", UID: "1"}
	require.NoError(t, l.SetClosed(t.Context(), closed))
	require.NoError(t, l.SetRecord(t.Context(), "escort.0", ""))
	s.expire(l)
	l = s.acquiredWith(s.namespace, termination.Acquisition{Received: time.Now()})
	require.Equal(t, []termination.ClosedNode{closed}, l.Closed())
	require.NoError(t, l.Release(termination.KeepNothing))
}

// A tenant's pods name as many controllers as they like. Escorts of others still record what they change.
func TestSetRecord_ManySuccessors_EscortsStillRecord(t *testing.T) {
	s := newLabEnv(t)
	l := s.acquired(s.namespace, ignore)
	var err error
	stored := 0
	for ; err == nil; stored++ {
		err = l.SetRecord(t.Context(), fmt.Sprintf("%s%d.%s", drain.SuccessorRecord, stored, strings.Repeat("k", 40)), strings.Repeat("u", 8<<10))
	}
	require.ErrorContains(t, err, "records of successors would have")
	require.Greater(t, stored, 5)
	require.NoError(t, l.SetRecord(t.Context(), drain.EscortRecord+"a", strings.Repeat("a", maxRecordBytes)))
	require.NoError(t, l.SetRecord(t.Context(), fmt.Sprintf("%s0.%s", drain.SuccessorRecord, strings.Repeat("k", 40)), ""), "one can be removed")
}

// A request without a timeout can cost the whole invocation.
func TestLease_EveryRequest_HasATimeout(t *testing.T) {
	e := newTaintEnv(t, 0)
	var mutex sync.Mutex
	methods := map[string]bool{}
	e.onResponse = func(r *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		methods[r.Method] = true
		require.NotEmpty(t, r.URL.Query().Get("timeout"), "%s %s", r.Method, r.URL)
	}
	lease, err := e.client.AcquireLease(t.Context(), e.namespace, termination.Acquisition{})
	require.NoError(t, err)
	require.NoError(t, lease.SetRecord(t.Context(), "escort.a", "paused"))
	require.NoError(t, e.client.ShortenDeadline(t.Context(), e.namespace, time.Now()))
	require.NoError(t, lease.Release(termination.KeepRecords))
	require.NoError(t, e.client.DeleteFreeLease(t.Context(), e.namespace))
	_, err = e.client.Leases(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]bool{http.MethodPost: true, http.MethodGet: true, http.MethodPut: true, http.MethodDelete: true}, methods)
}
