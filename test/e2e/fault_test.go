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
func TestADrainOutlivesThrottlingByAutoScaling(t *testing.T) {
	throttled := time.Duration(numberOf(t, "THROTTLED", throttledFor)) * time.Second
	p := setPost(t, 2, 1, 0)
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook, HeartbeatTimeout: throttledHook + 2*throttled})
	victim := p.instances[0]
	pods := p.beginHalf(victim)
	heal := p.AWS.Fail("autoscaling", "", awstest.Fault{
		Session: p.function.Session.Name, Code: http.StatusBadRequest, ErrorCode: "Throttling", Message: "Rate exceeded",
	})
	t.Cleanup(heal)
	p.says("heartbeat failed")
	p.removeBudget("web")
	p.refusedOnce("CompleteLifecycleAction")
	p.passed(time.Now(), throttled)
	heal()

	p.handled()
	p.tell()
	p.endedWell(victim, pods)
	p.isUntouched(p.instances[1])
	require.Empty(t, p.AWS.Messages(p.queue.DLQ))
}

// refusedOnce waits until a call of this action was refused.
func (p *post) refusedOnce(action string) {
	p.Helper()
	p.until(action+" is refused", func() (bool, error) {
		return slices.ContainsFunc(p.calls(action), func(c awstest.Call) bool { return c.Code == http.StatusBadRequest }), nil
	})
}

const (
	// watchLife is after how long a watch is closed. An API server does that after minutes, a proxy on the way when it likes.
	watchLife = 3 * time.Second
	// closings is how many of a drain's watches of its pods are closed before it may go on.
	closings = 3
)

// What a drain waits for, it sees by watching. A watch that has ended and is not taken up again is a drain that waits for ever.
func TestADrainGoesOnThoughItsWatchesAreClosed(t *testing.T) {
	on := play(t)
	way := newRoughWay(t, on)
	p := setPostOn(t, on, 2, 1, env.Settings{Environment: way.environment})
	victim := p.instances[0]
	pods := p.beginHalf(victim)
	p.until("watches were closed", func() (bool, error) { return way.ended.Load() >= closings, nil })
	pods = append(pods, *p.bare("late", pinned(victim)))
	p.gone("late")
	p.removeBudget("web")

	p.handled()
	p.tell()
	p.endedWell(victim, pods)
	p.isUntouched(p.instances[1])
}

// roughWay is a way to the API server on which no watch lasts: every other is closed in order, as the server does it, and the rest
// are cut.
type roughWay struct {
	environment []string // sends a function that way
	begun       atomic.Int32
	ended       atomic.Int32 // of those of pods
}

func newRoughWay(t *testing.T, on *env.Env) *roughWay {
	t.Helper()
	target, err := url.Parse(on.Lab.Endpoint())
	require.NoError(t, err)
	transport, err := rest.TransportFor(&rest.Config{Host: target.String(), TLSClientConfig: rest.TLSClientConfig{CAData: on.Lab.CA()}})
	require.NoError(t, err)
	w := &roughWay{}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval:  -1, // at once
		Transport:      transport,
		ModifyResponse: w.shorten,
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

// shorten gives a watch its end.
func (w *roughWay) shorten(r *http.Response) error {
	if !r.Request.URL.Query().Has("watch") {
		return nil
	}
	body := &mortal{ReadCloser: r.Body, end: io.EOF}
	if w.begun.Add(1)%2 == 0 {
		body.end = io.ErrUnexpectedEOF
	}
	r.Body = body
	time.AfterFunc(watchLife, func() {
		body.over.Store(true)
		_ = body.Close()
		if strings.HasSuffix(r.Request.URL.Path, "/pods") {
			w.ended.Add(1)
		}
	})
	return nil
}

// mortal is the body of an answer that ends before its time.
type mortal struct {
	io.ReadCloser
	end  error
	over atomic.Bool
}

func (m *mortal) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if err != nil && m.over.Load() {
		err = m.end
	}
	return n, err
}

const (
	// enough is more memory than the function needs for anything.
	enough = 256 << 20
	// scarce is what it may use beyond what it has when its memory gets short.
	scarce = 1 << 20
	// heavyPods are pods whose description is large, and how large.
	heavyPods = 20
	heavy     = 1 << 20
)

// The kernel kills who has used up its memory, and nobody is told. The next invocation goes on, when there is enough for it.
func TestAFunctionThatRunsOutOfMemoryIsFollowedByAnother(t *testing.T) {
	on := play(t)
	lab.RequireMemoryGroups(t)
	p := setPostOn(t, on, 2, 1, env.Settings{Memory: enough})
	victim, memory := p.instances[0], p.function.Memory
	pods := p.beginHalf(victim)
	used, err := memory.Used()
	require.NoError(t, err)
	require.NoError(t, memory.Limit(used+scarce))
	for n := range heavyPods {
		pods = append(pods, *p.bare(fmt.Sprint("heavy-", n), pinned(victim), ofWeight(heavy)))
	}
	p.until("the kernel has killed it", func() (bool, error) {
		kills, err := memory.Killed()
		return kills > 0, err
	})
	require.NoError(t, memory.Limit(enough)) // as an operator would
	p.removeBudget("web")

	p.handled()
	p.tell()
	done := p.said("done")
	require.Len(t, done, 1)
	require.Equal(t, 2, done[0].Receives)
	p.endedWell(victim, pods)
	p.isUntouched(p.instances[1])
	require.Empty(t, p.AWS.Messages(p.queue.DLQ))
}

func ofWeight(bytes int) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PAYLOAD", Value: strings.Repeat("x", bytes)}}
	}
}
