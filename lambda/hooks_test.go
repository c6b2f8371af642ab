package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
	"quiesce/internal/termination"
	"quiesce/internal/wire"
	"quiesce/test/parts/awstest"
)

// answers takes the place of S3, to which the hooks function sends its answers.
type answers []cfn.Response

// RoundTrip implements http.RoundTripper.
func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var answer cfn.Response
	err = json.Unmarshal(body, &answer)
	*a = append(*a, answer)
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, err
}

// hooksAccount is an account with groups of each kind, and the function that puts and removes their hooks.
type hooksAccount struct {
	*awstest.Server
	invoke  invoke
	answers answers
	settle  func() // what happens while a deletion waits
}

const hooksFile = `
cluster: prod
autoScalingGroups: [workers-a, "batch-*", {tag: "k8s.io/cluster/prod=owned"}]
lifecycle: {manageHooks: true}
mode: drain
`

// byHand is a hook that somebody else has put.
var byHand = awstest.Hook{Name: "quiesce", HeartbeatTimeout: time.Hour, DefaultResult: awstest.Continue}

func newHooksAccount(t *testing.T) *hooksAccount {
	t.Helper()
	server, _ := awstest.Serve(t)
	a := &hooksAccount{Server: server, settle: func() {}}
	server.AddGroup("workers-a", byHand)
	server.AddGroup("batch-1")
	server.AddGroup("batch-2", awstest.Hook{Name: "other"})
	server.AddGroup("eks-1")
	server.TagGroup("eks-1", map[string]string{"k8s.io/cluster/prod": "owned"})
	server.AddGroup("eks-2")
	server.TagGroup("eks-2", map[string]string{"k8s.io/cluster/prod": "shared"})
	server.AddGroup("foreign")
	a.configure(t, hooksFile)
	return a
}

// configure makes the function anew, as a deployment does.
func (a *hooksAccount) configure(t *testing.T, file string) {
	t.Helper()
	handler, err := newHooksHandler(t.Context(), environment(t, file))
	require.NoError(t, err)
	handler.Client.Transport = &a.answers
	hooks := a.stackHooks(t, file)
	hooks.settle = func(context.Context) error { a.settle(); return nil } // without the minute between two looks
	handler.Put, handler.Remove = hooks.put, hooks.remove
	a.invoke = handler.Invoke
}

// stackHooks returns what the handler is made of.
func (a *hooksAccount) stackHooks(t *testing.T, file string) stackHooks {
	t.Helper()
	settings, err := config.Load(environment(t, file))
	require.NoError(t, err)
	sdk, err := wire.LoadSDK(t.Context())
	require.NoError(t, err)
	return newStackHooks(settings, sdk, newLog(io.Discard))
}

// send sends an event, and returns the answer.
func (a *hooksAccount) send(t *testing.T, ctx context.Context, request cfn.RequestType, former ...string) cfn.Response {
	t.Helper()
	event := cfn.Event{
		RequestType: request, RequestID: "1", LogicalResourceID: "ManagedHooks", StackID: "stack",
		ResponseURL: "https://cloudformation-custom-resource-response-euwest1.s3.eu-west-1.amazonaws.com/a?signature",
	}
	for _, hook := range former {
		event.OldResourceProperties = map[string]any{config.HookProperty: hook}
	}
	payload, err := json.Marshal(event)
	require.NoError(t, err)
	_, err = a.invoke(ctx, payload)
	require.NoError(t, err)
	require.NotEmpty(t, a.answers)
	return a.answers[len(a.answers)-1]
}

// hooks returns the hooks of each group that has one of this name, as "ours" or "theirs".
func (a *hooksAccount) hooks(name string) map[string]string {
	found := map[string]string{}
	for _, group := range []string{"workers-a", "batch-1", "batch-2", "eks-1", "eks-2", "foreign"} {
		for _, hook := range a.HooksOf(group) {
			switch {
			case hook.Name != name:
			case hook.Metadata == `{"managedBy":"quiesce-prod"}`:
				found[group] = "ours"
			default:
				found[group] = "theirs"
			}
		}
	}
	return found
}

var everyHook = map[string]string{"workers-a": "theirs", "batch-1": "ours", "batch-2": "ours", "eks-1": "ours"}

func TestHooks_CreateThenDelete_OnlyOursComeAndGo(t *testing.T) {
	a := newHooksAccount(t)
	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestCreate).Status)
	require.Equal(t, everyHook, a.hooks("quiesce"))
	require.Equal(t, awstest.Hook{
		Name: "quiesce", Transition: awstest.Terminating, HeartbeatTimeout: 20 * time.Minute, GlobalTimeout: 2000 * time.Minute,
		DefaultResult: awstest.Continue, Metadata: `{"managedBy":"quiesce-prod"}`,
	}, a.HooksOf("eks-1")[0])

	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestDelete).Status)
	require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"))
	require.Equal(t, map[string]string{"batch-2": "theirs"}, a.hooks("other"))
}

func TestHooks_CreateTwice_ChangesNothing(t *testing.T) {
	a := newHooksAccount(t)
	a.send(t, t.Context(), cfn.RequestCreate)
	a.send(t, t.Context(), cfn.RequestCreate)
	puts := 0
	for _, call := range a.Calls() {
		if call.Action == "PutLifecycleHook" {
			puts++
		}
	}
	require.Equal(t, 3, puts)
}

func TestHooks_UpdateWithNewName_RemovesTheFormerOnes(t *testing.T) {
	a := newHooksAccount(t)
	a.send(t, t.Context(), cfn.RequestCreate)
	a.configure(t, hooksFile+"drain: {maxDuration: 40h}\n")
	a.send(t, t.Context(), cfn.RequestUpdate, "quiesce")
	require.Equal(t, everyHook, a.hooks("quiesce"), "the name is the same")
	require.Equal(t, 1450*time.Second, a.HooksOf("eks-1")[0].HeartbeatTimeout, "as that of the stack's own hooks")

	a.configure(t, `
cluster: prod
autoScalingGroups: [workers-a, "batch-*", {tag: "k8s.io/cluster/prod=owned"}]
lifecycle: {hook: drain-me, manageHooks: true}
mode: drain
`)
	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestUpdate, "quiesce").Status)
	require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"))
	require.Equal(t, map[string]string{"workers-a": "ours", "batch-1": "ours", "batch-2": "ours", "eks-1": "ours"}, a.hooks("drain-me"))
}

// The groups have no hook of ours otherwise, until a sweep looks at them within an hour.
func TestHooks_PutFails_TriedAgain(t *testing.T) {
	for _, former := range [][]string{nil, {"quiesce"}} {
		for action, times := range map[string]int{"PutLifecycleHook": 1, "DescribeAutoScalingGroups": 1, "DescribeLifecycleHooks": 4} {
			a := newHooksAccount(t)
			a.send(t, t.Context(), cfn.RequestCreate)
			a.configure(t, strings.Replace(hooksFile, "lifecycle: {", "lifecycle: {hook: drain-me, ", 1))
			a.Fail("autoscaling", action, awstest.Fault{Times: times, Code: 403, ErrorCode: "AccessDenied", Message: "no"})
			a.send(t, t.Context(), cfn.RequestUpdate, former...)
			require.Len(t, a.hooks("drain-me"), 4, action)
			if former != nil {
				require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"), action)
			}
		}
	}
}

// Nothing removes the former hooks later: the sweep knows the new name only.
func TestHooks_RemovalOfTheFormerOnesFails_TriedAgain(t *testing.T) {
	for action, times := range map[string]int{"DeleteLifecycleHook": 1, "DescribeLifecycleHooks": 10} {
		a := newHooksAccount(t)
		a.send(t, t.Context(), cfn.RequestCreate)
		a.configure(t, strings.Replace(hooksFile, "lifecycle: {", "lifecycle: {hook: drain-me, ", 1))
		a.Fail("autoscaling", action, awstest.Fault{Times: times, Code: 403, ErrorCode: "AccessDenied", Message: "no"})
		a.send(t, t.Context(), cfn.RequestUpdate, "quiesce")
		require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"), action)
	}
	a := newHooksAccount(t)
	a.send(t, t.Context(), cfn.RequestCreate)
	a.Fail("autoscaling", "DeleteLifecycleHook", awstest.Fault{Code: 403, ErrorCode: "AccessDenied", Message: "no"})
	hooks := a.stackHooks(t, strings.Replace(hooksFile, "lifecycle: {", "lifecycle: {hook: drain-me, ", 1))
	hooks.settle = func(context.Context) error { return nil }
	require.ErrorContains(t, hooks.put(t.Context(), "quiesce"), "remove the former hook quiesce by hand: ")
}

func TestHooks_OneGroupFails_OthersHaveTheirs(t *testing.T) {
	a := newHooksAccount(t)
	a.DeleteGroup("batch-1") // a hook cannot be put on it any more
	remove := a.Fail("autoscaling", "PutLifecycleHook", awstest.Fault{Times: 1, Code: 403, ErrorCode: "AccessDenied", Message: "no"})
	a.settle = func() {
		remove()
		remove = a.Fail("autoscaling", "PutLifecycleHook", awstest.Fault{Code: 403, ErrorCode: "AccessDenied", Message: "no"})
	}
	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestCreate).Status)
	a.settle = func() {}
	require.Len(t, a.hooks("quiesce"), 2, "workers-a has one, and one of batch-2 and eks-1")
	remove()
	a.send(t, t.Context(), cfn.RequestUpdate)
	require.Equal(t, map[string]string{"workers-a": "theirs", "batch-2": "ours", "eks-1": "ours"}, a.hooks("quiesce"))

	deny := awstest.Fault{Times: 1, Code: 403, ErrorCode: "AccessDenied", Message: "no"}
	a.Fail("autoscaling", "DeleteLifecycleHook", deny)
	a.settle = func() { a.Fail("autoscaling", "DeleteLifecycleHook", deny) }
	answer := a.send(t, t.Context(), cfn.RequestDelete)
	a.settle = func() {}
	require.Equal(t, cfn.StatusFailed, answer.Status)
	left := a.hooks("quiesce")
	delete(left, "workers-a")
	require.Len(t, left, 1, "the other one is removed")
	for group := range left {
		require.Contains(t, answer.Reason, "delete hook quiesce of "+group)
	}
	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestDelete).Status, "a person deletes the stack again")
	require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"))
}

// Auto Scaling throttled once: the other groups would have no hooks, and the stack would stay.
func TestHooks_DeletionFailsOnce_TriedAgain(t *testing.T) {
	a := newHooksAccount(t)
	a.send(t, t.Context(), cfn.RequestCreate)
	a.Fail("autoscaling", "DeleteLifecycleHook", awstest.Fault{Times: 1, Code: 403, ErrorCode: "AccessDenied", Message: "no"})
	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestDelete).Status)
	require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"))
}

// The sweep loses its permission just before, and a request of it may be under way.
func TestHooks_SweepPutsOneDuringTheDeletion_IsRemovedToo(t *testing.T) {
	a := newHooksAccount(t)
	a.send(t, t.Context(), cfn.RequestCreate)
	a.settle = func() {
		a.AddGroup("batch-1", awstest.Hook{Name: "quiesce", Metadata: `{"managedBy":"quiesce-prod"}`})
	}
	require.Equal(t, cfn.StatusSuccess, a.send(t, t.Context(), cfn.RequestDelete).Status)
	require.Equal(t, map[string]string{"workers-a": "theirs"}, a.hooks("quiesce"))
}

// Groups that match no longer cannot be changed: IAM forbids it.
func TestHooks_OtherStack_KeepsItsHooks(t *testing.T) {
	a := newHooksAccount(t)
	a.AddGroup("batch-1", awstest.Hook{Name: "quiesce", Metadata: `{"managedBy":"quiesce-test"}`})
	a.send(t, t.Context(), cfn.RequestCreate)
	a.send(t, t.Context(), cfn.RequestDelete)
	require.Equal(t, map[string]string{"workers-a": "theirs", "batch-1": "theirs"}, a.hooks("quiesce"))
}

// hooksReserve is more than the handler keeps for its answer, and for the end of the work.
const hooksReserve = 20 * time.Second

func TestHooks_AutoScalingDoesNotAnswer_CloudFormationHasAnAnswer(t *testing.T) {
	a := newHooksAccount(t)
	a.Fail("autoscaling", "", awstest.Fault{Delay: time.Hour})
	for request, status := range map[cfn.RequestType]cfn.StatusType{cfn.RequestCreate: cfn.StatusSuccess, cfn.RequestDelete: cfn.StatusFailed} {
		before := len(a.Calls())
		ctx, cancel := context.WithTimeout(t.Context(), hooksReserve+3*time.Second)
		answer := a.send(t, ctx, request)
		require.NoError(t, ctx.Err(), "the answer comes in time")
		cancel()
		require.Equal(t, status, answer.Status)
		require.Equal(t, status == cfn.StatusFailed, answer.Reason != "", answer.Reason)
		require.Greater(t, len(a.Calls()), before, "it has asked")
	}
}

func TestSettle_WaitsAMinute_UnlessTimeIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, settle(ctx), context.Canceled)
	require.Equal(t, time.Minute, settleTime)
}

// Each function of the zip takes its own events only.
func TestNewInvoke_EventOfTheOtherFunction_NothingHappens(t *testing.T) {
	server, _ := awstest.Serve(t)
	server.AddGroup("batch-1")
	event, err := json.Marshal(cfn.Event{
		RequestType: cfn.RequestCreate, ResponseURL: "https://cloudformation-custom-resource-response-euwest1.s3.eu-west-1.amazonaws.com/a",
	})
	require.NoError(t, err)
	settings := environment(t, hooksFile)
	inSQS, err := json.Marshal(map[string]any{"Records": []any{map[string]any{
		"messageId": "1", "eventSource": "aws:sqs", "body": string(event), "receiptHandle": "r",
	}}})
	require.NoError(t, err)

	main, err := newInvoke(t.Context(), settings)
	require.NoError(t, err)
	var malformed *termination.Malformed
	_, err = main(t.Context(), event)
	require.ErrorAs(t, err, &malformed)
	_, _ = main(t.Context(), inSQS)

	hooks, err := newInvoke(t.Context(), func(key string) string {
		if key == "_HANDLER" {
			return config.HooksHandler
		}
		return settings(key)
	})
	require.NoError(t, err)
	for _, payload := range [][]byte{inSQS, []byte(`{"action":"sweep"}`), []byte(`{"action":"drain","instanceId":"i-0123456789abcdef0"}`)} {
		_, err = hooks(t.Context(), payload)
		require.ErrorContains(t, err, "not an event of a custom resource")
	}
	require.Empty(t, server.Calls())
}

func TestNewInvoke_InvalidConfiguration_IsAnError(t *testing.T) {
	for _, handler := range []string{"bootstrap", config.HooksHandler} {
		settings := environment(t, "mode: drain\n")
		_, err := newInvoke(t.Context(), func(key string) string {
			if key == "_HANDLER" {
				return handler
			}
			return settings(key)
		})
		var invalid config.Errors
		require.ErrorAs(t, err, &invalid)
		var out bytes.Buffer
		logFatal(&out, err)
		require.Contains(t, out.String(), "invalid configuration")
	}
}
