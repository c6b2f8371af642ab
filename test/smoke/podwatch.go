package main

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// podRecord is what became of a test pod, as the API server showed it.
type podRecord struct {
	Name, Node, App string
	Record          string    // what it wrote when it was told to stop; empty: it was not told
	ExitCode        int32     // of its container, if it has ended
	Gone            time.Time // by this machine's clock; zero: it is still there
	ready           bool      // and not told to stop
}

// wasSignaled reports whether the pod got SIGTERM and ended by itself.
func (p podRecord) wasSignaled() bool {
	return strings.HasPrefix(p.Record, signaled) && p.ExitCode == 0
}

// podWatch keeps a record of each test pod, those that are gone included.
type podWatch struct {
	end  chan struct{}
	once sync.Once

	mu     sync.Mutex
	pods   map[types.UID]podRecord
	fewest int // how many pods of the PDB were ready at the worst moment, once all were; -1: they were not yet
}

func newPodWatch() *podWatch {
	return &podWatch{end: make(chan struct{}), pods: map[types.UID]podRecord{}, fewest: -1}
}

// watchPods starts to watch the test pods.
func watchPods(kube kubernetes.Interface) *podWatch {
	w := newPodWatch()
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(kube.CoreV1().RESTClient(), "pods", namespace, fields.Everything()),
		ObjectType:    &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(pod any) { w.note(pod, false) },
			UpdateFunc: func(_, pod any) { w.note(pod, false) },
			DeleteFunc: func(pod any) { w.note(pod, true) },
		},
	})
	go informer.Run(w.end)
	return w
}

func (w *podWatch) stop() { w.once.Do(func() { close(w.end) }) }

func (w *podWatch) note(object any, gone bool) {
	if last, missed := object.(cache.DeletedFinalStateUnknown); missed {
		object = last.Obj
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r := podRecord{Name: pod.Name, Node: pod.Spec.NodeName, App: pod.Labels["app"], Gone: w.pods[pod.UID].Gone}
	for _, c := range pod.Status.ContainerStatuses {
		if ended := c.State.Terminated; ended != nil {
			r.Record, r.ExitCode = strings.TrimSpace(ended.Message), ended.ExitCode
		}
	}
	if gone {
		r.Gone = time.Now()
	}
	r.ready = !gone && pod.DeletionTimestamp.IsZero() && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	w.pods[pod.UID] = r
	w.count()
}

// count counts the ready pods of the PDB after a change. The watch shows all changes in their order.
func (w *podWatch) count() {
	ready := 0
	for p := range maps.Values(w.pods) {
		if p.App == webApp && p.ready {
			ready++
		}
	}
	if w.fewest >= 0 {
		w.fewest = min(w.fewest, ready)
	} else if ready == webReplicas {
		w.fewest = ready
	}
}

// fewestReady returns how many pods of the PDB were ready at the worst moment.
func (w *podWatch) fewestReady() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fewest
}

// on returns the records of the pods that are or were on a node, by name.
func (w *podWatch) on(node string) []podRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.SortedFunc(maps.Values(w.pods), func(a, b podRecord) int { return strings.Compare(a.Name, b.Name) })
	return slices.DeleteFunc(all, func(p podRecord) bool { return p.Node != node })
}
