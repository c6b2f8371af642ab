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
	// throttledFor is how many seconds Auto Scaling throttles in a plain test; THROTTLED overrides it. After a minute an
	// invocation gives up its completion, and the next invocation continues.
	throttledFor = 5
	// throttledHook is the heartbeat timeout of the hook, on top of twice the throttled time. With heartbeats at a third of the
	// sum, one heartbeat falls into even a short failure.
	throttledHook = 45 * time.Second
)

// AWS throttles the whole account, most of all when many instances terminate at once.
func TestFailure_AutoScalingThrottles_DrainFinishes(t *testing.T) {
	throttled := time.Duration(envInt(t, "THROTTLED", throttledFor)) * time.Second
	p := newQueueFixture(t, 2, 1, 0)
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook, HeartbeatTimeout: throttledHook + 2*throttled})
	target := p.instances[0]
	pods := p.beginBlockedDrain(target)
	restore := p.AWS.Fail("autoscaling", "", awstest.Fault{
		Session: p.function.Session.Name, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded",
	})
	t.Cleanup(restore)
	p.awaitLog("heartbeat failed")
	p.removePDB("web")
	p.awaitRefusal("CompleteLifecycleAction")
	p.awaitElapsed(time.Now(), throttled)
	restore()

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
	// watchLifetime is how long a watch lasts. API servers close watches after minutes, proxies at any time.
	watchLifetime = 3 * time.Second
	// minClosedWatches is how many of the drain's pod watches are closed before it may continue.
	minClosedWatches = 3
)

// A drain sees progress by watching. If it did not restart a closed watch, it would wait forever.
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

// brokenProxy is a proxy to the API server on which no watch lasts. It closes every second watch properly, as the server does,
// and breaks the others.
type brokenProxy struct {
	environment []string // makes a function use the proxy
	started     atomic.Int32
	ended       atomic.Int32 // watches of pods that ended
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
		FlushInterval:  -1, // immediately
		Transport:      transport,
		ModifyResponse: w.limitWatch,
		ErrorLog:       log.New(io.Discard, "", 0), // it would log each broken watch
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

// limitWatch makes a watch end after watchLifetime.
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

// limitedBody is a response body that ends early.
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
	// ampleMemory is more memory than the function ever needs.
	ampleMemory = 256 << 20
	// scarceMemory is what the function may use beyond its present memory when memory gets scarce.
	scarceMemory = 1 << 20
	// heavyPods is the number of pods whose objects are large, and heavyPodSize their size in bytes.
	heavyPods    = 20
	heavyPodSize = 1 << 20
)

// The kernel kills a function that has used up its memory, without notice. The next invocation continues once there is enough
// memory.
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
		p.createPod(fmt.Sprint("heavy-", n), pinned(target), withPayload(heavyPodSize)) // after the cordon: most get only a deletion
	}
	p.until("the kernel has killed it", func() (bool, error) {
		kills, err := memory.Killed()
		return kills > 0, err
	})
	require.NoError(t, memory.Limit(ampleMemory)) // as an operator would do
	p.removePDB("web")

	p.awaitEmptyQueue()
	p.logProblems()
	done := p.logLines("event handled")
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
