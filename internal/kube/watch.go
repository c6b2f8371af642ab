package kube

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// A broken watch starts again after firstRewatch, then with growing delays up to lastRewatch. A drain waits for it, so both
// delays are far below those of a controller's informer. A node's pods are a small list, so a new one is cheap.
const (
	firstRewatch  = 100 * time.Millisecond
	lastRewatch   = 3 * time.Second
	rewatchFactor = 2.0
	rewatchJitter = 0.5
	rewatchSteps  = 8
)

// sink receives the objects of a watch.
type sink[T any] interface {
	put(T)
	drop(T)
	replace([]T)
}

// source is a set of objects that can be listed and watched.
type source[T runtime.Object] struct {
	client    rest.Interface
	namespace string // empty: all
	resource  string
	field     fields.Selector // nil: all
	list      func() runtime.Object
	sink      sink[T]
}

// activeWatch is a watch that has started.
type activeWatch struct {
	synced chan struct{} // closed when the first list is complete
	denied chan error    // receives the error of a denied request
}

// start lists and watches until ctx ends. It retries after every error; a denied request also goes to the channel denied.
func (s source[T]) start(ctx context.Context) *activeWatch {
	w := &activeWatch{synced: make(chan struct{}), denied: make(chan error, 1)}
	var object T
	reflector := cache.NewReflectorWithOptions(s.listWatch(w), object, &store[T]{sink: s.sink, synced: w.synced},
		cache.ReflectorOptions{Name: s.resource, Backoff: &wait.Backoff{
			Duration: firstRewatch, Cap: lastRewatch, Factor: rewatchFactor, Jitter: rewatchJitter, Steps: rewatchSteps,
		}})
	go reflector.RunWithContext(ctx)
	return w
}

// wait returns when the first list is complete, with an error if it is denied or ctx ends.
func (w *activeWatch) wait(ctx context.Context) error {
	select {
	case <-w.synced:
		return nil
	case err := <-w.denied:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s source[T]) listWatch(w *activeWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list := s.list()
			return list, w.failFast(s.request(options).Do(ctx).Into(list))
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.Watch = true
			stream, err := s.request(options).Watch(ctx)
			return stream, w.failFast(err)
		},
	}
}

func (s source[T]) request(options metav1.ListOptions) *rest.Request {
	if s.field != nil {
		options.FieldSelector = s.field.String()
	}
	return s.client.Get().NamespaceIfScoped(s.namespace, s.namespace != "").Resource(s.resource).VersionedParams(&options, params)
}

// failFast ends the wait for the first list if the request is denied: a retry does not help then. It returns err.
func (w *activeWatch) failFast(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		select {
		case w.denied <- err:
		default:
		}
	}
	return err
}

// store passes the objects of a reflector to a sink.
type store[T any] struct {
	sink   sink[T]
	synced chan struct{}
	once   sync.Once
}

func (s *store[T]) Add(object any) error    { s.sink.put(object.(T)); return nil }
func (s *store[T]) Update(object any) error { s.sink.put(object.(T)); return nil }
func (s *store[T]) Delete(object any) error { s.sink.drop(object.(T)); return nil }
func (s *store[T]) Resync() error           { return nil }

func (s *store[T]) Replace(objects []any, _ string) error {
	typed := make([]T, len(objects))
	for i, object := range objects {
		typed[i] = object.(T)
	}
	s.sink.replace(typed)
	s.once.Do(func() { close(s.synced) })
	return nil
}
