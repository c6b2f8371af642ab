package e2e

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	// throttledFor is for how many seconds Auto Scaling throttles completions in a plain test; THROTTLED says otherwise. After a minute
	// an invocation gives its completion up, and the next one goes on.
	throttledFor = 5
	// throttledHook is the heartbeat timeout of the hook then, beside which there are two such times: with a third of it from one
	// heartbeat to the next, one of them falls into a short fault.
	throttledHook = 45 * time.Second
)

// An account is throttled as a whole, and most of all when many instances go at once.
func TestFailure_AutoScalingThrottles_DrainFinishes(t *testing.T) {
	throttled := time.Duration(envInt(t, "THROTTLED", throttledFor)) * time.Second
	p := newQueueFixture(t, 2, 1, 0)
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook, HeartbeatTimeout: throttledHook + 2*throttled})
	target := p.instances[0]
	pods := p.beginBlockedDrain(target)
	heal := p.AWS.Fail("autoscaling", "", awstest.Fault{
		Session: p.function.Session.Name, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded",
	})
	t.Cleanup(heal)
	p.awaitLog("heartbeat failed")
	p.removePDB("web")
	p.awaitRefusal("CompleteLifecycleAction")
	p.awaitElapsed(time.Now(), throttled)
	heal()

	p.awaitEmptyQueue()
	p.logProblems()
	p.requireDrainedOnce(target, pods)
	p.requireUntouched(p.instances[1])
	require.Empty(t, p.AWS.Messages(p.queue.DLQ))
}

// awaitRefusal waits until a call of this action was refused.
func (p *queueFixture) awaitRefusal(action string) {
	p.Helper()
	p.until(action+" is refused", func() (bool, error) {
		return slices.ContainsFunc(p.calls(action), func(c awstest.Call) bool { return c.Code == http.StatusBadRequest }), nil
	})
}

const (
	// watchLifetime is after how long a watch is closed. An API server does that after minutes, a proxy on the way when it likes.
	watchLifetime = 3 * time.Second
	// minClosedWatches is how many of a drain's watches of its pods are closed before it may go on.
	minClosedWatches = 3
)

// What a drain waits for, it sees by watching. A watch that has ended and is not taken up again is a drain that waits for ever.
func TestFailure_WatchesClosed_DrainContinues(t *testing.T) {
	on := sharedEnv(t)
	way := newBrokenProxy(t, on)
	p := newQueueFixtureOn(t, on, 2, 1, env.Settings{Environment: way.environment})
	target := p.instances[0]
	pods := p.beginBlockedDrain(target)
	p.until("watches were closed", func() (bool, error) { return way.ended.Load() >= minClosedWatches, nil })
	pods = append(pods, *p.createPod("late", pinned(target)))
	p.awaitGone("late")
	p.removePDB("web")

	p.awaitEmptyQueue()
	p.logProblems()
	p.requireDrainedOnce(target, pods)
	p.requireUntouched(p.instances[1])
}

// brokenProxy is a way to the API server on which no watch lasts: every other is closed in order, as the server does it, and the rest
// are cut.
type brokenProxy struct {
	environment []string // sends a function that way
	started     atomic.Int32
	ended       atomic.Int32 // of those of pods
}

func newBrokenProxy(t *testing.T, on *env.Env) *brokenProxy {
	t.Helper()
	target, err := url.Parse(on.Lab.Endpoint())
	require.NoError(t, err)
	transport, err := rest.TransportFor(&rest.Config{Host: target.String(), TLSClientConfig: rest.TLSClientConfig{CAData: on.Lab.CA()}})
	require.NoError(t, err)
	w := &brokenProxy{}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval:  -1, // at once
		Transport:      transport,
		ModifyResponse: w.limitWatch,
		ErrorLog:       log.New(io.Discard, "", 0), // it would tell of each cut
	})
	proxy.EnableHTTP2 = true
	proxy.StartTLS()
	t.Cleanup(proxy.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
	w.environment = []string{
		"QUIESCE_CLUSTER_ENDPOINT=" + proxy.URL, "QUIESCE_CLUSTER_CA=" + base64.StdEncoding.EncodeToString(authority),
	}
	return w
}

// limitWatch gives a watch its end.
func (w *brokenProxy) limitWatch(r *http.Response) error {
	if !r.Request.URL.Query().Has("watch") {
		return nil
	}
	body := &limitedBody{ReadCloser: r.Body, end: io.EOF}
	if w.started.Add(1)%2 == 0 {
		body.end = io.ErrUnexpectedEOF
	}
	r.Body = body
	time.AfterFunc(watchLifetime, func() {
		body.expired.Store(true)
		_ = body.Close()
		if strings.HasSuffix(r.Request.URL.Path, "/pods") {
			w.ended.Add(1)
		}
	})
	return nil
}

// limitedBody is the body of an answer that ends before its time.
type limitedBody struct {
	io.ReadCloser
	end     error
	expired atomic.Bool
}

func (m *limitedBody) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if err != nil && m.expired.Load() {
		err = m.end
	}
	return n, err
}

const (
	// ampleMemory is more memory than the function needs for anything.
	ampleMemory = 256 << 20
	// scarceMemory is what it may use beyond what it has when its memory gets short.
	scarceMemory = 1 << 20
	// heavyPods are pods whose description is large, and how large.
	heavyPods    = 20
	heavyPodSize = 1 << 20
)

// The kernel kills who has used up its memory, and nobody is told. The next invocation goes on, when there is enough for it.
func TestFailure_OutOfMemory_NextInvocationFinishes(t *testing.T) {
	on := sharedEnv(t)
	lab.RequireMemoryGroups(t)
	p := newQueueFixtureOn(t, on, 2, 1, env.Settings{Memory: ampleMemory})
	target, memory := p.instances[0], p.function.Memory
	pods := p.beginBlockedDrain(target)
	used, err := memory.Used()
	require.NoError(t, err)
	require.NoError(t, memory.Limit(used+scarceMemory))
	for n := range heavyPods {
		pods = append(pods, *p.createPod(fmt.Sprint("heavy-", n), pinned(target), withPayload(heavyPodSize)))
	}
	p.until("the kernel has killed it", func() (bool, error) {
		kills, err := memory.Killed()
		return kills > 0, err
	})
	require.NoError(t, memory.Limit(ampleMemory)) // as an operator would
	p.removePDB("web")

	p.awaitEmptyQueue()
	p.logProblems()
	done := p.logLines("done")
	require.Len(t, done, 1)
	require.Equal(t, 2, done[0].Receives)
	p.requireDrainedOnce(target, pods)
	p.requireUntouched(p.instances[1])
	require.Empty(t, p.AWS.Messages(p.queue.DLQ))
}

func withPayload(bytes int) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PAYLOAD", Value: strings.Repeat("x", bytes)}}
	}
}
