package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/termination"
	"quiesce/test/parts/bubble"
)

// leaseServer is an API server's part for one Lease, in memory, so that time may be simulated.
type leaseServer struct {
	mutex   sync.Mutex
	version int
	object  *coordinationv1.Lease // nil: there is none
	refuses bool                  // it answers 503
	hangs   int                   // so many requests are not answered
	loses   int                   // so many changes are made, and their answers are lost

	failsGet bool // it answers 503 to every GET
}

func (s *leaseServer) client(t *testing.T) *Client {
	client, err := New(&rest.Config{Host: "https://api.test", Transport: s})
	require.NoError(t, err)
	return client
}

// change changes the Lease as somebody else does.
func (s *leaseServer) change(do func(l *coordinationv1.Lease)) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	do(s.object)
	s.version++
	s.object.ResourceVersion = strconv.Itoa(s.version)
}

func (s *leaseServer) renewed() time.Time {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.object.Spec.RenewTime.Time
}

func (s *leaseServer) set(refuses bool, hangs int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.refuses, s.hangs = refuses, hangs
}

func (s *leaseServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.hangs > 0 {
		s.hangs--
		s.mutex.Unlock()
		<-r.Context().Done()
		s.mutex.Lock()
		return nil, context.Cause(r.Context())
	}
	if s.refuses || s.failsGet && r.Method == http.MethodGet {
		return answerOf(http.StatusServiceUnavailable, nil), nil
	}
	var sent coordinationv1.Lease
	if r.Body != nil && r.Method != http.MethodDelete {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		if _, _, err := codecs().UniversalDeserializer().Decode(body, nil, &sent); err != nil {
			return nil, err
		}
	}
	switch {
	case r.Method == http.MethodPost && s.object != nil:
		return statusOf(http.StatusConflict, metav1.StatusReasonAlreadyExists), nil
	case r.Method != http.MethodPost && s.object == nil:
		return statusOf(http.StatusNotFound, metav1.StatusReasonNotFound), nil
	case r.Method == http.MethodPut && sent.ResourceVersion != s.object.ResourceVersion:
		return statusOf(http.StatusConflict, metav1.StatusReasonConflict), nil
	case r.Method == http.MethodDelete:
		s.object = nil
		return statusOf(http.StatusOK, ""), nil
	case r.Method == http.MethodGet && path.Base(r.URL.Path) == "leases":
		return answerOf(http.StatusOK, &coordinationv1.LeaseList{
			TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "LeaseList"}, Items: []coordinationv1.Lease{*s.object},
		}), nil
	case r.Method != http.MethodGet:
		s.version++
		sent.ResourceVersion = strconv.Itoa(s.version)
		sent.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
		s.object = &sent
		if s.loses > 0 {
			s.loses--
			return nil, errors.New("connection reset by peer")
		}
	}
	return answerOf(http.StatusOK, s.object), nil
}

func statusOf(code int, reason metav1.StatusReason) *http.Response {
	return answerOf(code, &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Code: int32(code), Reason: reason, //nolint:gosec // a status
	})
}

func answerOf(code int, body any) *http.Response {
	text, _ := json.Marshal(body)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(text)),
	}
}

const lostLease = "quiesce-postgres-db-test"

func holdTestLease(ctx context.Context, t *testing.T) (*leaseServer, escort.MarkedLease) {
	s := &leaseServer{}
	held, err := s.client(t).AcquireMarkedLease(ctx, lostLease)
	require.NoError(t, err)
	require.NotNil(t, held)
	require.NoError(t, held.SetMark(ctx, "paused: a"))
	return s, held
}

// A mark that stays, though it was removed, has sweeps resume the pauses of others. So does a node that stays recorded have it opened again.
func TestLease_AnswerOfAWriteIsLost_RemovedAllTheSame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &leaseServer{}
		marked, err := s.client(t).AcquireMarkedLease(t.Context(), lostLease)
		require.NoError(t, err)
		s.loses = 1
		require.ErrorContains(t, marked.SetMark(t.Context(), "paused: a"), "connection reset by peer")
		require.Equal(t, "paused: a", s.object.Annotations[pausedAnnotation])
		require.NoError(t, marked.SetMark(t.Context(), ""))
		require.NotContains(t, s.object.Annotations, pausedAnnotation)
		version := s.object.ResourceVersion
		require.NoError(t, marked.SetMark(t.Context(), ""))
		require.Equal(t, version, s.object.ResourceVersion, "nothing is written that is there")
		require.NoError(t, marked.Release())

		l, err := s.client(t).AcquireLease(t.Context(), "i-1", termination.Acquisition{})
		require.NoError(t, err)
		s.loses = 1
		require.Error(t, l.SetClosed(t.Context(), termination.ClosedNode{Name: "node-a", UID: "1"}))
		require.Contains(t, s.object.Annotations, closedAnnotation+"1")
		require.NoError(t, l.ForgetClosed(t.Context(), "1"))
		require.NotContains(t, s.object.Annotations, closedAnnotation+"1")
		require.NoError(t, l.Release(termination.KeepNothing))
	})
}

// The write was made and its answer lost. The next one looks at the Lease first, and must say that it may be repeated.
func TestSetRecord_LookAfterALostAnswerFails_MayBeRepeated(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &leaseServer{}
		l, err := s.client(t).AcquireLease(t.Context(), "i-1", termination.Acquisition{})
		require.NoError(t, err)
		s.loses = 1
		err = l.SetRecord(t.Context(), "escort.a", "paused")
		require.True(t, isTemporary(err), err)
		s.failsGet = true
		err = l.SetRecord(t.Context(), "escort.a", "evicting")
		require.True(t, isTemporary(err), err)
		s.failsGet = false
		require.NoError(t, l.SetRecord(t.Context(), "escort.a", "evicting"))
		require.NoError(t, l.Release(termination.KeepNothing))
	})
}

func TestSetRecord_EachKind_ReadBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, err := (&leaseServer{}).client(t).AcquireLease(t.Context(), "i-1", termination.Acquisition{})
		require.NoError(t, err)
		for _, kind := range []string{drain.EscortRecord, drain.SuccessorRecord, drain.PhasesRecord} {
			require.NoError(t, l.SetRecord(t.Context(), kind+"a", "kept"), kind)
			require.Equal(t, "kept", l.Record(kind+"a"))
		}
		require.ErrorContains(t, l.SetRecord(t.Context(), "deadline", "now"), "no drain makes a record of this kind")
		require.NoError(t, l.Release(termination.KeepNothing))
	})
}

func isTemporary(err error) bool {
	_, is := errors.AsType[escort.Temporary](err)
	return is
}

// The next try would be another holder, and would wait until the Lease expires.
func TestAcquireLease_AnswerIsLost_Acquired(t *testing.T) {
	for name, before := range map[string]*coordinationv1.Lease{
		"there was none": nil,
		"it was free": {ObjectMeta: metav1.ObjectMeta{
			Name: "i-1", Annotations: map[string]string{attemptsAnnotation: "1"}, ResourceVersion: "7"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := &leaseServer{object: before, loses: 1}
				held, err := s.client(t).AcquireLease(t.Context(), "i-1", termination.Acquisition{})
				require.NoError(t, err)
				require.NotNil(t, held, "this invocation holds it")
				time.Sleep(2 * leaseRenewal)
				require.Less(t, time.Since(s.renewed()), leaseRenewal+time.Second)
				require.NoError(t, held.Release(termination.KeepNothing))
				require.Nil(t, s.object)
			})
		})
	}
}

// What is paused when the drain's time ends is still paused by this invocation, which resumes it. Nobody may take the Lease before that.
func TestMarkedLease_ContextEnded_RenewedUntilReleased(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, held := holdTestLease(ctx, t)
		cancel()
		time.Sleep(2 * leaseDuration)
		require.Less(t, time.Since(s.renewed()), leaseDuration)
		require.NoError(t, held.Lost())
		require.NoError(t, held.SetMark(t.Context(), ""))
		require.NoError(t, held.Release())
		require.Nil(t, s.object)
	})
}

func TestGroupLease_ContextEnded_RenewedUntilReleased(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &leaseServer{}
		ctx, cancel := context.WithCancel(t.Context())
		release, acquired, err := s.client(t).AcquireGroupLease(ctx, lostLease)
		require.NoError(t, err)
		require.True(t, acquired)
		cancel()
		time.Sleep(2 * leaseDuration)
		require.Less(t, time.Since(s.renewed()), leaseDuration)
		require.NoError(t, release())
	})
}

func TestMarkedLease_AnotherTakesIt_LostNamesIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, held := holdTestLease(t.Context(), t)
		defer func() { _ = held.Release() }()
		require.NoError(t, held.Lost())
		s.change(func(l *coordinationv1.Lease) { setHolder(l, "quiesce-other") })
		time.Sleep(leaseRenewal + time.Second)
		require.ErrorIs(t, held.Lost(), escort.ErrTaken)
		require.ErrorContains(t, held.Lost(), "quiesce-other")
		require.Error(t, held.SetMark(t.Context(), ""))
		require.Equal(t, "paused: a", s.object.Annotations[pausedAnnotation], "it is the new holder's")
	})
}

func TestMarkedLease_DeletedByHand_Lost(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, held := holdTestLease(t.Context(), t)
		defer func() { _ = held.Release() }()
		s.mutex.Lock()
		s.object = nil
		s.mutex.Unlock()
		time.Sleep(leaseRenewal + time.Second)
		require.ErrorContains(t, held.Lost(), "deleted")
		require.False(t, errors.Is(held.Lost(), escort.ErrTaken), "nobody else resumes what it names")
	})
}

// One renewal that hangs or fails does no harm. Only an outage that lasts ends what relies on the Lease, and no longer than it does.
func TestMarkedLease_Outage_LostOnlyWhileItIsNotRenewed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, held := holdTestLease(t.Context(), t)
		defer func() { _ = held.Release() }()
		s.set(false, 2)
		for range 60 {
			time.Sleep(time.Second)
			require.NoError(t, held.Lost())
		}
		s.set(true, 0)
		time.Sleep(leaseDuration)
		require.ErrorContains(t, held.Lost(), "renewed")
		require.False(t, errors.Is(held.Lost(), escort.ErrTaken))
		s.set(false, 0)
		time.Sleep(2 * leaseRetry)
		require.NoError(t, held.Lost())
	})
}
