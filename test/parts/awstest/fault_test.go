package awstest_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func TestFault_Times_AffectsThatManyCalls(t *testing.T) {
	s := startWithInstance(t)
	cfg := config(s)
	s.Fail("autoscaling", "DescribeLifecycleHooks", awstest.Fault{
		Times: 2, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded",
	})
	for range 2 {
		requireCode(t, describeHooks(t.Context(), cfg), "Throttling")
	}
	require.NoError(t, describeHooks(t.Context(), cfg))
}

func TestFault_OfAService_LastsUntilRemoved(t *testing.T) {
	s := startWithInstance(t)
	cfg := config(s)
	remove := s.Fail("autoscaling", "", awstest.Fault{Code: http.StatusServiceUnavailable, ErrorCode: "ServiceUnavailable"})
	for range 3 {
		requireCode(t, describeHooks(t.Context(), cfg), "ServiceUnavailable")
	}
	remove()
	require.NoError(t, describeHooks(t.Context(), cfg))
}

func TestFault_Session_AffectsNoOther(t *testing.T) {
	s := startWithInstance(t)
	ours, theirs := s.Session("ours"), s.Session("theirs")
	s.Fail("autoscaling", "", awstest.Fault{Session: "ours", Code: http.StatusServiceUnavailable, ErrorCode: "ServiceUnavailable"})
	requireCode(t, describeHooks(t.Context(), configOf(s, ours)), "ServiceUnavailable")
	require.NoError(t, describeHooks(t.Context(), configOf(s, theirs)))
}

func TestFault_AfterEffect_OnlyAnswerLost(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	token := s.Terminate(id)[0].Token
	s.Fail("autoscaling", "CompleteLifecycleAction", awstest.Fault{
		Times: 1, Code: http.StatusInternalServerError, ErrorCode: "InternalFailure", AfterEffect: true,
	})
	c := scalingOf(t, s)
	requireCode(t, c.complete(token, awstest.Continue), "InternalFailure")
	require.Len(t, s.Completions(id), 1)
	require.ErrorContains(t, c.complete(token, awstest.Continue), "No active Lifecycle Action found")
}

func TestFault_ClientGoneDuringDelay_NoEffect(t *testing.T) {
	s := startWithInstance(t, awstest.Hook{Name: hook})
	s.Terminate(id)
	s.Fail("autoscaling", "CompleteLifecycleAction", awstest.Fault{Delay: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	client := scalingOf(t, s).client
	failed := make(chan error)
	go func() { failed <- completeByInstance(ctx, client, hook, awstest.Continue) }()
	require.Eventually(t, func() bool { return len(s.Calls()) == 1 }, waitTimeout, pollInterval)
	require.Zero(t, s.Calls()[0].Code)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Eventually(t, func() bool { return s.Calls()[0].Code != 0 }, waitTimeout, pollInterval)
	require.Empty(t, s.Completions(id))
}
