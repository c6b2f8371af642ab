// Command allocations prints how often the function allocates memory for one more pod on the node. The API server is in memory.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/kube"
)

const (
	few, many = 500, 1000
	// tries is how often each number is measured. The least counts: what runs beside only adds.
	tries = 7
)

var node = drain.Node{Name: "node-1"}

func main() {
	debug.SetGCPercent(-1) // the collector empties pools
	numbers, err := measure(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(numbers); err != nil {
		log.Fatal(err)
	}
}

func measure(ctx context.Context) (map[string]int, error) {
	client, err := kube.New(&rest.Config{Host: "http://api", Transport: server{many: podStream(many), few: podStream(few)}})
	if err != nil {
		return nil, err
	}
	watch := func(ctx context.Context, pods int) drain.Cluster {
		cluster, failed := client.WatchPods(ctx, drain.Node{Name: fmt.Sprint(pods)}, drain.EffortFull)
		err = errors.Join(err, failed)
		return cluster
	}
	read := perPod(func(pods int) {
		ctx, cancel := context.WithCancel(ctx)
		watch(ctx, pods)
		cancel()
	})
	if err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	drainer, clusters := drain.Drainer{Phases: []drain.Phase{{Name: "workloads"}}, Concurrency: 16}, map[int]drain.Cluster{
		few: watch(watching, few), many: watch(watching, many),
	}
	planned := perPod(func(pods int) { drainer.Plan(clusters[pods].Pods(), node) })
	evicted := perPod(func(pods int) {
		for _, p := range clusters[pods].Pods() {
			err = errors.Join(err, clusters[pods].Evict(ctx, p.Ref, drain.EvictOptions{Grace: time.Second}))
		}
	})
	return map[string]int{"read one pod": read, "plan one pod": planned, "list and evict one pod": evicted}, err
}

// perPod returns the allocations for one more pod: what is the same for few and for many does not count.
func perPod(do func(pods int)) int {
	return int(math.Round((least(do, many) - least(do, few)) / (many - few)))
}

func least(do func(pods int), pods int) float64 {
	fewest := math.Inf(1)
	for range tries {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do(pods)
		runtime.ReadMemStats(&after)
		fewest = min(fewest, float64(after.Mallocs-before.Mallocs))
	}
	return fewest
}

// server is the API server: by the number of pods, the beginning of the watch of their node. It accepts each eviction.
type server map[int][]byte

func (s server) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r}
	answer.Header.Set("Content-Type", "application/vnd.kubernetes.protobuf")
	if r.Method == http.MethodPost {
		answer.StatusCode, answer.Body = http.StatusCreated, http.NoBody
		return answer, nil
	}
	stream := &stream{ended: r.Context().Done()}
	for pods, events := range s {
		if r.URL.Query().Get("fieldSelector") == fmt.Sprintf("spec.nodeName=%d", pods) {
			stream.Reader = *bytes.NewReader(events)
		}
	}
	answer.Body = stream
	return answer, nil
}

// stream is a watch that stays open after its events until the client ends it.
type stream struct {
	bytes.Reader
	ended <-chan struct{}
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		<-s.ended
	}
	return n, err
}

func (s *stream) Close() error { return nil }

// podStream returns the events with which a watch begins: this many pods, and the mark that the list is complete.
func podStream(pods int) []byte {
	var events []byte
	for n := range pods {
		events = appendEvent(events, "ADDED", pod(n))
	}
	return appendEvent(events, "BOOKMARK", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}})
}

func appendEvent(events []byte, kind string, p *corev1.Pod) []byte {
	unknown := k8sruntime.Unknown{TypeMeta: k8sruntime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: must(p.Marshal())}
	event := metav1.WatchEvent{Type: kind, Object: k8sruntime.RawExtension{Raw: append([]byte("k8s\x00"), must(unknown.Marshal())...)}}
	encoded := must(event.Marshal())
	return append(binary.BigEndian.AppendUint32(events, uint32(len(encoded))), encoded...)
}

// pod is as large as an ordinary one: its controller, labels, two containers with what a kubelet reports of them.
func pod(n int) *corev1.Pod {
	isController := true
	name := fmt.Sprintf("web-%04d", n)
	container := corev1.Container{Name: "web", Image: "registry.example/web:1", Env: []corev1.EnvVar{{Name: "TEXT", Value: strings.Repeat("x", 100)}}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "app", Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n)), ResourceVersion: "1",
			CreationTimestamp: metav1.Unix(1_800_000_000, 0), Labels: map[string]string{"app": "web", "pod-template-hash": "5d8f"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d8f", UID: "00000000-0000-4000-9000-000000000000", Controller: &isController}},
		},
		Spec:   corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{container, container}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func must(encoded []byte, err error) []byte {
	if err != nil {
		log.Fatal(err)
	}
	return encoded
}
