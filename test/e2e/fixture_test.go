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

// waitTimeout bounds every wait of these tests: far beyond what any needs on a slow machine, so that only a real hang meets it.
const waitTimeout = 2 * time.Minute

const (
	// testTimeout bounds a test, so that one that hangs is told by its name.
	testTimeout = 5 * time.Minute
	// longTestTimeout bounds one in its long form.
	longTestTimeout = 40 * time.Minute
)

// fixture is one test's part of the stage: a group with its nodes, a namespace whose pods run on them, and a function.
type fixture struct {
	*testing.T
	*env.Env
	ctx       context.Context
	group     string // and namespace
	instances []env.Instance
	function  *env.Function
}

// newFixture makes a scene with n nodes. more is appended to the function's configuration.
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

// fixtures counts them: a test that runs twice has two.
var fixtures atomic.Int32

func nameOf(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	return fmt.Sprintf("%s-%d", name[:min(len(name), 50)], fixtures.Add(1)) // 63 characters are allowed
}

func (s *fixture) newFunction(more ...string) *env.Function {
	s.Helper()
	return s.newFunctionFor(s.group, more...)
}

// newFunctionFor is a function that another group than the scene's is configured for.
func (s *fixture) newFunctionFor(group string, more ...string) *env.Function {
	s.Helper()
	return s.start("autoScalingGroups: [\"" + group + "\"]\n" + strings.Join(more, "\n"))
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

// terminate has Auto Scaling terminate the instance and returns our hook's event.
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

// report is what the function answers with.
type report struct {
	termination.Report
	ErrorType, ErrorMessage string
}

func (s *fixture) invoke(payload any) report { return s.invokeOn(s.function, payload) }

func (s *fixture) invokeOn(f *env.Function, payload any) report {
	s.Helper()
	return s.beginOn(f, payload)()
}

// beginOn invokes in the background. The returned function waits for the answer.
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

// begin terminates the instance and has the function begin to drain it.
func (s *fixture) begin(i env.Instance) (end func() report) {
	s.Helper()
	return s.beginOn(s.function, s.terminate(i).Body)
}

// drain terminates the instance and has the function drain it.
func (s *fixture) drain(i env.Instance) report {
	s.Helper()
	return s.invoke(s.terminate(i).Body)
}

// until waits for a condition.
func (s *fixture) until(what string, holds func() (bool, error)) {
	s.Helper()
	s.within(waitTimeout, what, holds)
}

// within waits for a condition that may take that long.
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
			require.Failf(s, "never", "%s (%v)", what, last)
		}
		select {
		case <-s.ctx.Done():
			require.Failf(s, "cut short", "%s (%v)", what, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// requests are those that a function made of Kubernetes, in order.
func (s *fixture) requests(f *env.Function) []lab.Request {
	s.Helper()
	all, err := s.Lab.Audit().By(f.User)
	require.NoError(s, err)
	return all
}

// writes are the requests that may have changed something.
func writes(all []lab.Request) (changed []string) {
	for _, r := range all {
		if r.Verb != "get" && r.Verb != "list" && r.Verb != "watch" {
			changed = append(changed, fmt.Sprintf("%s %s/%s %s", r.Verb, r.Resource, r.Subresource, r.Name))
		}
	}
	return changed
}

// evictions are the evictions that the scene's function asked for, in order: of the pod of this name, or empty, of any.
func (s *fixture) evictions(pod string) (asked []lab.Request) {
	s.Helper()
	for _, r := range s.requests(s.function) {
		if r.Subresource == "eviction" && (pod == "" || r.Name == pod) {
			asked = append(asked, r)
		}
	}
	return asked
}

// answered are the requests that were answered with this status.
func answered(all []lab.Request, code int) (found []lab.Request) {
	for _, r := range all {
		if r.Code == code {
			found = append(found, r)
		}
	}
	return found
}

// awaitLogs waits until the scene's function has logged all of these texts.
func (s *fixture) awaitLogs(texts ...string) {
	s.Helper()
	s.until("the log says "+strings.Join(texts, " and "), func() (bool, error) {
		output := s.function.Output()
		for _, text := range texts {
			if !strings.Contains(output, text) {
				return false, nil
			}
		}
		return true, nil
	})
}

// pod is the line of a pod in the report.
func (r report) pod(t require.TestingT, pod string) drain.PodReport {
	for _, p := range r.Pods {
		if p.Name == pod {
			return p
		}
	}
	require.Failf(t, "not in the report", "%s in %+v", pod, r.Pods)
	return drain.PodReport{}
}
