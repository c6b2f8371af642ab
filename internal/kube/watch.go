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

// A broken watch is taken up again after firstRewatch, then ever later up to lastRewatch. A drain waits on it, so that both
// are far below what an informer of a controller uses; a node's pods are a small list to ask for.
const (
	firstRewatch  = 100 * time.Millisecond
	lastRewatch   = 3 * time.Second
	rewatchFactor = 2.0
	rewatchJitter = 0.5
	rewatchSteps  = 8
)

// sink takes what a watch sees.
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

// activeWatch is a watch that has been started.
type activeWatch struct {
	synced chan struct{}
	denied chan error
}

// start lists and watches until ctx ends, through every error but the lasting ones before the first list.
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

// wait returns when the first list is complete, or cannot be had.
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

// failFast lets those know who wait for the first list that it will not come: a denied request is not cured by repeating it.
func (w *activeWatch) failFast(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		select {
		case w.denied <- err:
		default:
		}
	}
	return err
}

// store hands a reflector's findings to a sink.
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
