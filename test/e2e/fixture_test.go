package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
)

// waitTimeout bounds every wait of these tests: far more than any needs on a slow machine, so that only a real hang reaches it.
const waitTimeout = 2 * time.Minute

const (
	// testTimeout bounds a test, so that a hang is reported with the test's name.
	testTimeout = 5 * time.Minute
	// longTestTimeout bounds a test in its long form.
	longTestTimeout = 40 * time.Minute
)

// fixture is one test's part of the shared environment: a group with its nodes, a namespace whose pods run on them, and a
// function.
type fixture struct {
	*testing.T
	*env.Env
	ctx       context.Context
	group     string // also the name of the namespace
	instances []env.Instance
	function  *env.Function
}

// newFixture makes a fixture with n nodes in the shared environment. The lines of more are appended to the function's
// configuration.
func newFixture(t *testing.T, n int, more ...string) *fixture {
	return newFixtureOn(t, sharedEnv(t), n, more...)
}

func newFixtureOn(t *testing.T, on *env.Env, n int, more ...string) *fixture {
	s := &fixture{T: t, Env: on, group: nameOf(t)}
	limit := testTimeout
	if isLong() {
		limit = longTestTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	s.ctx = ctx
	var err error
	s.instances, err = s.Group(ctx, s.group, n)
	require.NoError(t, err)
	_, err = s.Lab.Client().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.group}}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.function = s.newFunction(more...)
	return s
}

// fixtures counts the fixtures, so that a test that runs twice gets two names.
var fixtures atomic.Int32

func nameOf(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	return fmt.Sprintf("%s-%d", name[:min(len(name), 50)], fixtures.Add(1)) // a name may have 63 characters
}

func (s *fixture) newFunction(more ...string) *env.Function {
	s.Helper()
	return s.newFunctionFor(s.group, more...)
}

// newFunctionFor starts a function that is configured for this group.
func (s *fixture) newFunctionFor(group string, more ...string) *env.Function {
	s.Helper()
	settings := strings.Join(more, "\n")
	if !strings.Contains(settings, "mode: ") {
		settings = "mode: drain\n" + settings
	}
	return s.start("autoScalingGroups: [\"" + group + "\"]\n" + settings)
}

func (s *fixture) start(configuration string, environment ...string) *env.Function {
	s.Helper()
	function, err := s.Function(context.Background(), configuration, environment...)
	require.NoError(s, err)
	s.Cleanup(func() {
		require.NoError(s, function.Close())
		if s.Failed() {
			s.Logf("the function's log:\n%s", function.Output())
		}
	})
	return function
}

// terminate makes Auto Scaling terminate the instance and returns the event of our hook.
func (s *fixture) terminate(i env.Instance) awstest.Event {
	s.Helper()
	for _, event := range s.AWS.Terminate(i.ID) {
		if event.Hook == env.Hook {
			return event
		}
	}
	require.Fail(s, "no event for our hook")
	return awstest.Event{}
}

// report is the function's answer: a report or an error.
type report struct {
	termination.Report
	ErrorType, ErrorMessage string
}

func (s *fixture) invoke(payload any) report { return s.invokeOn(s.function, payload) }

func (s *fixture) invokeOn(f *env.Function, payload any) report {
	s.Helper()
	return s.beginOn(f, payload)()
}

// beginOn invokes the function in the background. The returned function waits for the answer.
func (s *fixture) beginOn(f *env.Function, payload any) (end func() report) {
	s.Helper()
	body, isBytes := payload.([]byte)
	if !isBytes {
		var err error
		body, err = json.Marshal(payload)
		require.NoError(s, err)
	}
	var result runtimeapi.Result
	var err error
	done := make(chan struct{})
	go func() { defer close(done); result, err = f.Invoke(s.ctx, body) }()
	return func() report {
		s.Helper()
		<-done
		require.NoError(s, err)
		answer := report{ErrorType: result.ErrorType, ErrorMessage: result.ErrorMessage}
		if result.ErrorType == "" {
			require.NoError(s, json.Unmarshal(result.Payload, &answer.Report), "%s", result.Payload)
		}
		return answer
	}
}

// begin terminates the instance and starts its drain in the background.
func (s *fixture) begin(i env.Instance) (end func() report) {
	s.Helper()
	return s.beginOn(s.function, s.terminate(i).Body)
}

// drain terminates the instance and waits for its drain.
func (s *fixture) drain(i env.Instance) report {
	s.Helper()
	return s.invoke(s.terminate(i).Body)
}

// until waits for a condition, for waitTimeout at most.
func (s *fixture) until(what string, holds func() (bool, error)) {
	s.Helper()
	s.within(waitTimeout, what, holds)
}

// within waits for a condition, for limit at most.
func (s *fixture) within(limit time.Duration, what string, holds func() (bool, error)) {
	s.Helper()
	deadline := time.Now().Add(limit)
	var last error
	for {
		ok, err := holds()
		if ok {
			return
		}
		last = err
		if time.Now().After(deadline) {
			require.Failf(s, "condition never met", "%s (%v)", what, last)
		}
		select {
		case <-s.ctx.Done():
			require.Failf(s, "test ended while waiting", "%s (%v)", what, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// requests returns the function's requests to the API server, in order.
func (s *fixture) requests(f *env.Function) []lab.Request {
	s.Helper()
	all, err := s.Lab.Audit().By(f.User)
	require.NoError(s, err)
	return all
}

// writes returns the requests that may have changed something.
func writes(all []lab.Request) (changed []string) {
	for _, r := range all {
		if r.Verb != "get" && r.Verb != "list" && r.Verb != "watch" {
			changed = append(changed, fmt.Sprintf("%s %s/%s %s", r.Verb, r.Resource, r.Subresource, r.Name))
		}
	}
	return changed
}

// evictions returns the eviction requests of the fixture's function for the named pod, in order; for an empty name, for any pod.
func (s *fixture) evictions(pod string) (asked []lab.Request) {
	s.Helper()
	for _, r := range s.requests(s.function) {
		if r.Subresource == "eviction" && (pod == "" || r.Name == pod) {
			asked = append(asked, r)
		}
	}
	return asked
}

// answered returns the requests that were answered with this HTTP status.
func answered(all []lab.Request, code int) (found []lab.Request) {
	for _, r := range all {
		if r.Code == code {
			found = append(found, r)
		}
	}
	return found
}

// awaitLogs waits until the fixture's function has logged all these texts.
func (s *fixture) awaitLogs(texts ...string) {
	s.Helper()
	s.until("the log has "+strings.Join(texts, " and "), func() (bool, error) {
		output := s.function.Output()
		for _, text := range texts {
			if !strings.Contains(output, text) {
				return false, nil
			}
		}
		return true, nil
	})
}

// pod returns the pod's line in the report.
func (r report) pod(t require.TestingT, pod string) drain.PodReport {
	for _, p := range r.Pods {
		if p.Name == pod {
			return p
		}
	}
	require.Failf(t, "not in the report", "%s in %+v", pod, r.Pods)
	return drain.PodReport{}
}
