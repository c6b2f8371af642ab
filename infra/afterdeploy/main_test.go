package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/termination"
	"quiesce/test/parts/awstest"
)

var (
	checked = termination.CheckReport{Status: termination.StatusChecked, Steps: []termination.CheckStep{
		{Name: "groups", OK: true, Detail: "3 groups", Seconds: 0.21},
	}}
	broken = termination.CheckReport{Status: termination.StatusFailed, Steps: []termination.CheckStep{
		{Name: "groups", OK: true, Detail: "3 groups"}, {Name: "eviction", Detail: "forbidden", Next: "kubectl apply -f infra/rbac.yaml"},
	}}
)

// deployed is a stack whose function gives these answers, the last one again and again.
func deployed(t *testing.T, subscriptions []awstest.Subscription, answers ...any) (server *awstest.Server, s stack) {
	t.Helper()
	server, _ = awstest.Serve(t)
	invocations := 0
	server.AddFunction("quiesce-prod", func(_ context.Context, payload []byte) ([]byte, string, error) {
		require.JSONEq(t, `{"action":"check"}`, string(payload))
		answer := answers[min(invocations, len(answers)-1)]
		invocations++
		if err, is := answer.(error); is {
			return []byte(`{"errorType":"Malformed","errorMessage":"` + err.Error() + `"}`), "Unhandled", nil
		}
		text, err := json.Marshal(answer)
		return text, "", err
	})
	return server, stack{name: "quiesce-prod", Function: functionARN("quiesce-prod"), Alarms: server.AddTopic("alarms", subscriptions...)}
}

// functionARN is the output Function of a stack in the server's account.
func functionARN(name string) string {
	return "arn:aws:lambda:" + awstest.Region + ":" + awstest.Account + ":function:" + name + ":live"
}

func examined(t *testing.T, stacks ...stack) (ok bool, table string) {
	t.Helper()
	var out bytes.Buffer
	ok = run(t.Context(), &out, stacks, 0)
	return ok, out.String()
}

func TestRun_CheckSucceeds_PrintsEachStep(t *testing.T) {
	_, s := deployed(t, []awstest.Subscription{{Protocol: "email"}, {Protocol: "email", SubscriptionArn: awstest.Pending}}, checked)
	ok, table := examined(t, s)
	require.True(t, ok)
	require.Equal(t, `
Checking arn:aws:lambda:eu-west-1:111122223333:function:quiesce-prod:live
  ok  groups  3 groups (0.2 s)
  ok  alarms  1 confirmed subscribers, 1 pending
`, table)
}

func TestRun_CheckFails_SaysWhatToDo(t *testing.T) {
	server, s := deployed(t, nil, broken)
	ok, table := examined(t, s)
	require.False(t, ok)
	require.Regexp(t, `FAILED +eviction +forbidden \(0\.0 s\)\n +Next: kubectl apply -f infra/rbac\.yaml\n`, table)
	require.Equal(t, tries, invocations(server))
}

func invocations(server *awstest.Server) (n int) {
	for _, call := range server.Calls() {
		if call.Action == "Invoke" {
			n++
		}
	}
	return n
}

// The access entry of a new stack takes effect with delay.
func TestRun_CheckSucceedsLater_Succeeds(t *testing.T) {
	server, s := deployed(t, nil, broken, broken, checked)
	ok, table := examined(t, s)
	require.True(t, ok)
	require.Contains(t, table, "Failed: eviction. A new access entry takes a moment: trying again in 0s\n")
	require.Equal(t, 3, invocations(server))
}

// Alarms that reach no one look like alarms that never fire.
func TestRun_NobodySubscribes_Warns(t *testing.T) {
	_, s := deployed(t, nil, checked)
	ok, table := examined(t, s)
	require.True(t, ok)
	require.Contains(t, table, "alarms reach no one: the topic has no subscriber")
	require.Contains(t, table, "Next: aws sns subscribe --topic-arn "+s.Alarms)

	_, s = deployed(t, []awstest.Subscription{{SubscriptionArn: awstest.Pending}, {SubscriptionArn: "Deleted"}}, checked)
	ok, table = examined(t, s)
	require.True(t, ok)
	require.Contains(t, table, "alarms reach no one: 1 subscribers, none confirmed")
}

func TestRun_NotAllowedToList_WarnsOnly(t *testing.T) {
	server, s := deployed(t, nil, checked)
	server.Fail("sns", "", awstest.Fault{Code: http.StatusForbidden, ErrorCode: "AuthorizationError", Message: "not authorized"})
	ok, table := examined(t, s)
	require.True(t, ok)
	require.Contains(t, table, "unknown whether alarms reach anyone")
}

// CloudWatch publishes to such a topic in vain, and nothing says so.
func TestRun_TopicUnderKeyOfAWS_Warns(t *testing.T) {
	server, s := deployed(t, []awstest.Subscription{{Protocol: "email"}}, checked)
	for key, reaches := range map[string]bool{"alias/aws/sns": false, "arn:aws:kms:eu-west-1:111122223333:alias/aws/sns": false, "alias/alarms": true} {
		server.EncryptTopic(s.Alarms, key)
		ok, table := examined(t, s)
		require.True(t, ok)
		require.Equal(t, reaches, strings.Contains(table, "1 confirmed subscribers"), key)
		require.Equal(t, !reaches, strings.Contains(table, "alarms reach no one: the topic is encrypted with alias/aws/sns"), key)
	}
}

func TestRun_NoAnswer_Fails(t *testing.T) {
	_, s := deployed(t, nil, errors.New("action: must be plan or drain"))
	ok, table := examined(t, s)
	require.False(t, ok)
	require.Contains(t, table, "must be plan or drain")

	gone := s
	gone.Function = functionARN("quiesce-other")
	_, next := deployed(t, nil, checked)
	ok, table = examined(t, gone, next)
	require.False(t, ok, "one of two")
	require.Contains(t, table, "Function not found")
	require.Regexp(t, `ok +groups`, table, "the other is checked all the same")
}

// CDK deploys to another account through a role of that account. The credentials of the shell stay those of their own.
func TestRun_StackOfAnotherAccount_SaysWhoseCredentials(t *testing.T) {
	server, s := deployed(t, nil, checked) // a function of the same name in the account of the credentials
	s.Function = strings.Replace(s.Function, awstest.Account, "444455556666", 1)
	s.Alarms = strings.Replace(s.Alarms, awstest.Account, "444455556666", 1)
	ok, table := examined(t, s)
	require.False(t, ok)
	require.Contains(t, table, "not authorized to perform: lambda:InvokeFunction on resource: "+s.Function)
	require.Contains(t, table, "Next: invoke it with credentials of account 444455556666")
	require.Contains(t, table, "unknown whether alarms reach anyone")
	require.Equal(t, 1, invocations(server))
}

func TestReadOutputs_FileOfCDK_HasStacks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outputs.json")
	read := func(text string) ([]stack, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return readOutputs(path)
	}
	stacks, err := read(`{
  "quiesce-b": {"Function": "arn:aws-us-gov:lambda:us-gov-west-1:111122223333:function:quiesce-b:live",
                "Alarms": "arn:aws-us-gov:sns:us-gov-west-1:111122223333:on-call", "Stop": "x"},
  "quiesce-a": {"Function": "arn:aws:lambda:eu-west-1:111122223333:function:quiesce-a:live", "Alarms": "arn:aws:sns:eu-west-1:111122223333:alarms"}
}`)
	require.NoError(t, err)
	require.Len(t, stacks, 2)
	require.Equal(t, []string{"quiesce-a", "eu-west-1"}, []string{stacks[0].name, stacks[0].region()})
	require.Equal(t, []string{"quiesce-b", "us-gov-west-1"}, []string{stacks[1].name, stacks[1].region()})
	for text, want := range map[string]string{
		`{}`: "has no stack", `[`: "read ", `{"a":{"Function":"f","Alarms":"a"}}`: "stack a has no outputs Function and Alarms",
		`{"a":{"Function":"arn:aws:lambda:eu-west-1:111122223333:function:f:live"}}`: "stack a has no outputs Function and Alarms",
	} {
		_, err := read(text)
		require.ErrorContains(t, err, want)
	}
	_, err = readOutputs(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}
