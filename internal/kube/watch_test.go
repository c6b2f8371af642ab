package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	protobufserializer "k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/test/parts/bubble"
)

// network stands between a client and the API server. It counts requests and answers some itself.
type network struct {
	next   http.RoundTripper
	answer func(*http.Request) *http.Response // nil: the server does
	cut    func(io.ReadCloser) io.ReadCloser  // of an answer to a watch; nil: as it is

	mu   sync.Mutex
	seen []string
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	kind := r.Method
	switch query := r.URL.Query(); {
	case query.Get("sendInitialEvents") != "":
		kind = "WATCHLIST"
	case query.Get("watch") != "":
		kind = "WATCH"
	}
	n.seen = append(n.seen, kind+" "+r.URL.Path)
	n.mu.Unlock()
	if n.answer != nil {
		if response := n.answer(r); response != nil {
			return response, nil
		}
	}
	response, err := n.next.RoundTrip(r)
	if err == nil && n.cut != nil && kind != r.Method {
		response.Body = n.cut(response.Body)
	}
	return response, err
}

// requests returns how many requests of these kinds were sent.
func (n *network) requests(kinds ...string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, seen := range n.seen {
		if slices.Contains(kinds, seen) {
			count++
		}
	}
	return count
}

// clientThrough returns a client with the function's permissions, behind the network.
func (e *labEnv) clientThrough(n *network) *Client {
	e.Helper()
	config := e.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: "function", Groups: []string{"quiesce"}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		n.next = next
		return n
	})
	client, err := New(config)
	require.NoError(e, err)
	return client
}

func statusResponse(code int, reason metav1.StatusReason, message string) *http.Response {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":%q,"code":%d}`, reason, message, code)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}
}

// refuseStreamingLists answers as a server that is too old for them does, or one that has the feature off.
func refuseStreamingLists(r *http.Request) *http.Response {
	if r.URL.Query().Get("sendInitialEvents") == "" {
		return nil
	}
	return statusResponse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents: Forbidden")
}

// listings are the ways to list: how the server answers a request for a streaming list.
var listings = map[string]func(*http.Request) *http.Response{"streaming list": nil, "plain list": refuseStreamingLists}

// bareNode adds a node whose pods no kubelet touches.
func (e *labEnv) bareNode() drain.Node {
	e.Helper()
	nodes := e.Client().CoreV1().Nodes()
	created, err := nodes.Create(e.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "bare-"},
		Spec:       corev1.NodeSpec{ProviderID: "aws:///us-east-1a/i-bare", Unschedulable: true},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
	e.Cleanup(func() {
		zero := int64(0)
		_ = e.Client().CoreV1().Pods(e.namespace).DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: &zero},
			metav1.ListOptions{})
		_ = nodes.Delete(context.Background(), created.Name, metav1.DeleteOptions{})
	})
	return drain.Node{Name: created.Name, UID: string(created.UID), InstanceID: "i-bare", Cordoned: time.Now()}
}

func (e *labEnv) createPod(node, name string, change func(*corev1.Pod)) *corev1.Pod {
	e.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	if change != nil {
		change(pod)
	}
	created, err := e.Client().CoreV1().Pods(e.namespace).Create(e.Context(), pod, metav1.CreateOptions{})
	require.NoError(e, err)
	return created
}

func (e *labEnv) deletePod(name string) {
	e.Helper()
	zero := int64(0)
	require.NoError(e, e.Client().CoreV1().Pods(e.namespace).Delete(e.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &zero}))
}

// podNames returns the names of the pods, sorted.
func podNames(cluster drain.Cluster) []string {
	names := []string{}
	for _, p := range cluster.Pods() {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

func (e *labEnv) awaitNames(cluster drain.Cluster, names ...string) {
	e.Helper()
	e.eventually(func() bool { return slices.Equal(names, podNames(cluster)) })
}

func TestWatchPods_EitherListing_FewRequests(t *testing.T) {
	for name, answer := range listings {
		t.Run(name, func(t *testing.T) {
			e := newLabEnv(t)
			node, through := e.bareNode(), &network{answer: answer}
			e.createPod(node.Name, "a", nil)
			e.createPod(node.Name, "b", nil)
			client := e.clientThrough(through)
			for range 2 {
				watched, err := client.WatchPods(t.Context(), node, drain.EffortFull)
				require.NoError(t, err)
				require.Equal(t, []string{"a", "b"}, podNames(watched))
			}
			e.eventually(func() bool { return through.requests("WATCH /api/v1/pods", "WATCHLIST /api/v1/pods") >= 2 })
			if answer == nil {
				require.Equal(t, 2, through.requests("GET /api/v1/pods", "WATCH /api/v1/pods", "WATCHLIST /api/v1/pods"), "one request lists and watches")
				return
			}
			require.LessOrEqual(t, through.requests("WATCHLIST /api/v1/pods"), 1, "the client knows after the first refusal")
			require.Equal(t, 2, through.requests("GET /api/v1/pods"))
		})
	}
}

// shortBody ends an answer after a while, as a proxy or a server that restarts does.
type shortBody struct {
	io.ReadCloser
	ended atomic.Bool
}

func cutAfter(d time.Duration) func(io.ReadCloser) io.ReadCloser {
	return func(body io.ReadCloser) io.ReadCloser {
		short := &shortBody{ReadCloser: body}
		time.AfterFunc(d, func() {
			short.ended.Store(true)
			_ = body.Close()
		})
		return short
	}
}

func (b *shortBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.ended.Load() {
		err = io.EOF
	}
	return n, err
}

// awaitAnotherWatch waits until the latest watch was cut and the next one is requested.
func (e *labEnv) awaitAnotherWatch(through *network) {
	e.Helper()
	before := through.requests("WATCH /api/v1/pods")
	e.eventually(func() bool { return through.requests("WATCH /api/v1/pods") > before })
}

// A drain ends when no pod is listed. So a pod that was bound just before must be in the list, also where the server's cache is behind: a list
// at a version, such as "0", may come from that.
func TestWatchPods_PlainList_AsksForTheLatestState(t *testing.T) {
	e := newLabEnv(t)
	versions := make(chan []string, 1)
	client := e.clientThrough(&network{answer: func(r *http.Request) *http.Response {
		if query := r.URL.Query(); strings.HasSuffix(r.URL.Path, "/pods") && query.Get("watch") == "" {
			select {
			case versions <- append(query["resourceVersion"], query["resourceVersionMatch"]...):
			default: // another list
			}
		}
		return refuseStreamingLists(r)
	}})
	_, err := client.WatchPods(t.Context(), e.bareNode(), drain.EffortFull)
	require.NoError(t, err)
	require.Empty(t, <-versions)
}

func TestWatchPods_WatchesAreCut_NothingIsLost(t *testing.T) {
	for name, answer := range listings {
		t.Run(name, func(t *testing.T) {
			e := newLabEnv(t)
			node, through := e.bareNode(), &network{answer: answer, cut: cutAfter(50 * time.Millisecond)}
			e.createPod(node.Name, "first", nil)
			watched, err := e.clientThrough(through).WatchPods(t.Context(), node, drain.EffortFull)
			require.NoError(t, err)
			for i := range 10 { // so that changes fall into watches and between them
				e.createPod(node.Name, fmt.Sprint("web-", i), nil)
				if i > 4 {
					e.deletePod(fmt.Sprint("web-", i-5))
					e.awaitAnotherWatch(through)
				}
			}
			for i := 5; i < 10; i++ {
				e.deletePod(fmt.Sprint("web-", i))
			}
			e.deletePod("first")
			e.createPod(node.Name, "last", nil)
			e.awaitNames(watched, "last")
			require.Greater(t, through.requests("WATCH /api/v1/pods"), 1)
			require.LessOrEqual(t, through.requests("GET /api/v1/pods", "WATCHLIST /api/v1/pods"), 3, "a watch that ends needs no new list")
		})
	}
}

// While a watch is broken, its version can expire. The new list must not show pods that are gone.
func TestWatchPods_VersionExpires_ListReplacesAll(t *testing.T) {
	for name, answer := range listings {
		t.Run(name, func(t *testing.T) {
			e := newLabEnv(t)
			var down, expired atomic.Bool
			through := &network{cut: cutAfter(200 * time.Millisecond)}
			through.answer = func(r *http.Request) *http.Response {
				query := r.URL.Query()
				switch {
				case r.URL.Path != "/api/v1/pods":
					return nil
				case down.Load():
					return statusResponse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "down")
				case query.Get("watch") != "" && query.Get("resourceVersion") != "" && expired.CompareAndSwap(true, false):
					return statusResponse(http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
				case answer != nil:
					return answer(r)
				}
				return nil
			}
			node := e.bareNode()
			e.createPod(node.Name, "gone", nil)
			e.createPod(node.Name, "stays", nil)
			watched, err := e.clientThrough(through).WatchPods(t.Context(), node, drain.EffortFull)
			require.NoError(t, err)
			require.Len(t, watched.Pods(), 2)
			down.Store(true)
			expired.Store(true)
			e.awaitAnotherWatch(through) // in vain
			e.deletePod("gone")
			e.createPod(node.Name, "new", nil)
			require.Equal(t, []string{"gone", "stays"}, podNames(watched), "the last list stays until there is another")
			down.Store(false)
			e.awaitNames(watched, "new", "stays")
			require.False(t, expired.Load())
			for _, p := range watched.Pods() {
				require.Equal(t, p.Name == "new", p.CreatedAfterCordon, p.Name)
			}
		})
	}
}

func TestWatchPods_Denied_FailsAtOnce(t *testing.T) {
	for name, answer := range listings {
		t.Run(name, func(t *testing.T) {
			e := newLabEnv(t)
			config := e.Admin()
			config.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
			config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &network{next: next, answer: answer} })
			client, err := New(config)
			require.NoError(t, err)
			began := time.Now()
			_, err = client.WatchPods(t.Context(), drain.Node{Name: "node-a"}, drain.EffortFull)
			require.True(t, apierrors.IsForbidden(err))
			require.ErrorContains(t, err, "list pods of node node-a")
			require.Less(t, time.Since(began), listIdleTimeout)
		})
	}
}

// A pod's owner may write what he likes: what is kept is bounded, and so is what is needed to read it.
func TestWatchPods_LargePods_KeepsLittle(t *testing.T) {
	for name, answer := range listings {
		for effort, what := range map[drain.Effort]string{drain.EffortFull: "whole pods", drain.EffortMetadata: "metadata"} {
			t.Run(name+", "+what, func(t *testing.T) {
				e := newLabEnv(t)
				node := e.bareNode()
				created := e.createPod(node.Name, "large", func(p *corev1.Pod) {
					p.Labels, p.Annotations = map[string]string{}, map[string]string{
						drain.OptOutAnnotation: strings.Repeat("x", 1000), "other": "x", "quiesce/escort": "pgbouncer",
					}
					for i := range 1000 {
						p.Labels[fmt.Sprint("label-", i)] = strings.Repeat("x", 60)
						p.Finalizers = append(p.Finalizers, fmt.Sprint("example.com/", i))
					}
					for i := range 200 {
						p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", i), VolumeSource: corev1.VolumeSource{
							PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("claim-", i)},
						}})
					}
					p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName = "../../../secrets/x"
					seconds, yes := int64(1<<62), true
					p.Spec.TerminationGracePeriodSeconds = &seconds
					p.OwnerReferences = []metav1.OwnerReference{{
						APIVersion: "example.com/v1", Kind: "ReplicaSet", Name: "../../x", UID: types.UID(strings.Repeat("x", 1000)), Controller: &yes,
					}}
				})
				t.Cleanup(func() {
					_, _ = e.Client().CoreV1().Pods(e.namespace).Patch(context.Background(), "large", types.MergePatchType,
						[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
				})
				watched, err := e.clientThrough(&network{answer: answer}).WatchPods(t.Context(), node, effort)
				require.NoError(t, err)
				require.Len(t, watched.Pods(), 1)
				want := drain.Pod{
					Ref: refOf(created), Created: created.CreationTimestamp.Time, Controller: "ReplicaSet", Grace: 30 * time.Second,
					Annotations: map[string]string{drain.OptOutAnnotation: strings.Repeat("x", maxAnnotationValue), "quiesce/escort": "pgbouncer"},
				}
				for i := range maxFinalizers {
					want.Finalizers = append(want.Finalizers, fmt.Sprint("example.com/", i))
				}
				if effort == drain.EffortFull {
					want.Grace = maxSeconds * time.Second
					for i := range maxClaims {
						want.Claims = append(want.Claims, fmt.Sprint("claim-", i+1))
					}
				}
				got := watched.Pods()[0]
				require.Equal(t, want, got)
			})
		}
	}
}

// The owners have a kind that the lab does not know, so its garbage collector leaves the pods alone.
// With only the metadata, everything is known that keeps a pod from being signalled by mistake.
func TestWatchPods_MetadataOnly_KnowsWhoStays(t *testing.T) {
	for name, answer := range listings {
		t.Run(name, func(t *testing.T) {
			e := newLabEnv(t)
			node, yes := e.bareNode(), true
			e.createPod(node.Name, "daemon", func(p *corev1.Pod) {
				p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "DaemonSet", Name: "d", UID: "1", Controller: &yes}}
			})
			e.createPod(node.Name, "out", func(p *corev1.Pod) { p.Annotations = map[string]string{drain.OptOutAnnotation: "false"} })
			e.createPod(node.Name, "terminating", nil)
			e.createPod(node.Name, "web", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
			require.NoError(t, e.Client().CoreV1().Pods(e.namespace).Delete(t.Context(), "terminating", metav1.DeleteOptions{}))
			watched, err := e.clientThrough(&network{answer: answer}).WatchPods(t.Context(), node, drain.EffortMetadata)
			require.NoError(t, err)
			verdicts := map[string]drain.Verdict{}
			for _, p := range watched.Pods() {
				verdicts[p.Name] = drain.Decide(p, node).Verdict
				require.Equal(t, p.Name == "terminating", !p.StopsBy.IsZero(), p.Name)
			}
			require.Equal(t, map[string]drain.Verdict{
				"daemon": drain.Skip, "out": drain.Skip, "terminating": drain.Wait, "web": drain.Evict,
			}, verdicts)
			e.createPod(node.Name, "late", nil)
			e.awaitNames(watched, "daemon", "late", "out", "terminating", "web")
		})
	}
}

// An operator must see why a drain waits for its pods, and see it once.
func TestWatch_ServerDown_LoggedOnce(t *testing.T) {
	logged := clientLog.collect(t)
	bubble.Test(t, func(t *testing.T) {
		requests := make(chan struct{}, 100)
		through := &network{answer: func(r *http.Request) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/pods") {
				requests <- struct{}{}
			}
			return statusResponse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "etcd is down")
		}}
		client, err := New(&rest.Config{Host: "https://cluster.example", Transport: through})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := client.WatchPods(ctx, drain.Node{Name: "node-a"}, drain.EffortFull)
			ended <- err
		}()
		for range 4 {
			<-requests
		}
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	var lines []string
	for line := range strings.Lines(logged()) {
		if strings.Contains(line, "etcd is down") && strings.Contains(line, `"resource":"pods"`) { // not of another test's watch
			lines = append(lines, line)
		}
	}
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "Failed to watch")
}

// switchedLog is a log that tests can collect. It goes to standard error while none does.
type switchedLog struct {
	mu   sync.Mutex
	test *bytes.Buffer // nil: none
}

func (l *switchedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.test == nil {
		return os.Stderr.Write(p)
	}
	return l.test.Write(p)
}

// collect collects what is logged until the test ends, and returns what reads it.
func (l *switchedLog) collect(t *testing.T) (read func() string) {
	into := func(b *bytes.Buffer) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.test = b
	}
	var logged bytes.Buffer
	into(&logged)
	t.Cleanup(func() { into(nil) })
	return func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return logged.String()
	}
}

// largeBytes is how large each of the failed pods is, just below what etcd accepts.
const largeBytes = 1_250_000

// heapLimit is far below what the pods have together, and far above what watching them needs: 6 MB were seen.
const heapLimit = 32 << 20

func TestWatchPods_ManyLargeFailedPods_LittleMemory(t *testing.T) {
	const failed, running = 80, 5
	e := newLabEnv(t)
	node := e.bareNode()
	e.createLarge(node.Name, "failed", failed)
	e.createLarge(node.Name, "running", running)
	e.each(failed, func(client kubernetes.Interface, i int) error {
		_, err := client.CoreV1().Pods(e.namespace).Patch(t.Context(), fmt.Sprint("failed-", i), types.MergePatchType,
			[]byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status") // as its kubelet does
		return err
	})
	for name, answer := range listings {
		for effort, what := range map[drain.Effort]string{drain.EffortFull: "whole pods", drain.EffortMetadata: "metadata"} {
			t.Run(name+", "+what, func(t *testing.T) {
				through, gauge := &network{answer: answer}, newHeapGauge()
				client := e.clientThrough(through)
				through.next = throughGauge{through.next, gauge}
				watched, err := client.WatchPods(t.Context(), node, effort)
				require.NoError(t, err)
				gauge.measure()
				t.Logf("%d MB of pods are watched with at most %d MB more heap", (failed+running)*largeBytes>>20, gauge.growth()>>20)
				require.Less(t, gauge.growth(), uint64(heapLimit))
				if effort == drain.EffortFull {
					// The API server answers from its cache, which may know the last phases a moment later.
					e.eventually(func() bool { return watched.FinishedPods() == failed })
					require.Len(t, watched.Pods(), maxFinishedNamed+running)
				}
			})
		}
	}
}

// createLarge creates pods that are as large as the API server allows.
func (e *labEnv) createLarge(node, name string, n int) {
	e.Helper()
	text := strings.Repeat("x", largeBytes)
	e.each(n, func(client kubernetes.Interface, i int) error {
		_, err := client.CoreV1().Pods(e.namespace).Create(e.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(name, "-", i)},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
				Name: "app", Image: "app", Env: []corev1.EnvVar{{Name: "TEXT", Value: text}},
			}}},
		}, metav1.CreateOptions{})
		return err
	})
}

// each calls do n times, eight at once.
func (e *labEnv) each(n int, do func(kubernetes.Interface, int) error) {
	e.Helper()
	config := e.Admin()
	config.ContentType, config.AcceptContentTypes, config.QPS = protobuf, protobuf, -1
	client, err := kubernetes.NewForConfig(config)
	require.NoError(e, err)
	var group sync.WaitGroup
	errs, slots := make([]error, n), make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(client, i)
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(e, err)
	}
}

// A list that ends early is not a list without the rest.
func TestListReader_AnswerIsCut_Fails(t *testing.T) {
	list := &corev1.PodList{Items: []corev1.Pod{*podNamed("a", "1"), *podNamed("b", "2")}}
	list.ResourceVersion = "7"
	var encoded bytes.Buffer
	list.APIVersion, list.Kind = "v1", "PodList"
	require.NoError(t, protobufserializer.NewSerializer(scheme, scheme).Encode(list, &encoded))
	read := func(body []byte) (names []string, version string, err error) {
		reader := listReader{visit: func(object []byte) error {
			p, err := decodePod(object)
			names = append(names, p.Name)
			return err
		}}
		metadata, err := reader.read(bytes.NewReader(body))
		return names, metadata.ResourceVersion, err
	}
	names, version, err := read(encoded.Bytes())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, names)
	require.Equal(t, "7", version)
	for size := range encoded.Len() - 4 { // without the last two fields of runtime.Unknown, which are empty
		_, _, err := read(encoded.Bytes()[:size])
		require.Error(t, err, "the first %d bytes of %d", size, encoded.Len())
	}
}

func FuzzListReader(f *testing.F) {
	f.Add([]byte("k8s\x00"))
	f.Fuzz(func(_ *testing.T, body []byte) {
		reader := listReader{visit: func(object []byte) error { _, err := decodePod(object); return err }}
		_, _ = reader.read(bytes.NewReader(body))
		for frames := newFrameReader(bytes.NewReader(body)); ; {
			if _, _, err := frames.next(); err != nil {
				return
			}
		}
	})
}
