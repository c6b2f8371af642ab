package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"quiesce/internal/drain"
)

// A broken watch starts again after firstRewatch, then with growing delays up to lastRewatch. A drain waits for it, so both
// delays are far below those of a controller's informer. A node's pods are a small list, so a new one is cheap.
const (
	firstRewatch  = 100 * time.Millisecond
	lastRewatch   = 3 * time.Second
	rewatchFactor = 2.0
	rewatchJitter = 0.5
	rewatchSteps  = 8
	// longWatch is how long a watch must last to count as one that worked. After it, the next one starts at once.
	longWatch = time.Second
)

const (
	// listIdleTimeout bounds the wait for the answer, and for the next item of a list. A list with large objects takes long,
	// but no single item does. The HTTP/2 connection's own health check finds a dead connection after about as long.
	listIdleTimeout = callTimeout
	// minWatchTime and twice that bound one watch. The server ends it then, and the next one may reach another server.
	minWatchTime = 5 * time.Minute
)

// errIdle ends a request that makes no progress.
var errIdle = errors.New("the API server sent nothing for " + listIdleTimeout.String())

// sink receives the objects of a watch. Between begin and end it receives a list, which replaces all earlier objects at its
// end. A list that breaks off begins again.
type sink[T any] interface {
	begin()
	put(T)
	drop(T)
	end()
}

// source is a set of objects that can be listed and watched. It decodes them one by one and keeps none, so that the memory it
// needs does not depend on them.
type source[T any] struct {
	*Client
	api       rest.Interface
	namespace string // empty: all
	resource  string
	field     fields.Selector // nil: all
	metadata  bool            // only the objects' metadata is read
	decode    func(object []byte) (T, error)
	sink      sink[T]
}

// activeWatch is a watch that has started.
type activeWatch struct {
	synced chan struct{} // closed when the first list is complete
	denied chan error    // receives the error of a denied request
	live   atomic.Bool   // the list is complete, and the watch has not ended
}

// start lists and watches until ctx ends. It retries after every error; a denied request also goes to the channel denied.
func (s source[T]) start(ctx context.Context) *activeWatch {
	w := &activeWatch{synced: make(chan struct{}), denied: make(chan error, 1)}
	go (&follower[T]{source: s, activeWatch: w}).run(ctx)
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

// failFast ends the wait for the first list if the request is denied: a retry does not help then.
func (w *activeWatch) failFast(err error) {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		select {
		case w.denied <- err:
		default:
		}
	}
}

// follower follows a source. If the server can, one watch begins with the list
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists). Otherwise a LIST precedes the watch.
type follower[T any] struct {
	source[T]
	*activeWatch
	once     sync.Once
	logged   string // the latest error
	loggedAt int    // events, when it was logged
	version  string // the watch continues after it; empty: a list is next
	byList   bool   // the next list is a plain LIST: the latest streaming list failed
	events   int    // received, so far
}

func (f *follower[T]) run(ctx context.Context) {
	delays := newDelays()
	for ctx.Err() == nil {
		began, before := time.Now(), f.events
		err := f.follow(ctx)
		f.live.Store(false)
		f.failFast(err)
		f.log(ctx, err)
		if f.events > before || time.Since(began) >= longWatch {
			delays = newDelays()
		}
		if time.Since(began) < longWatch {
			_ = drain.Sleep(ctx, delays.Step())
		}
	}
}

// log logs an error that the follower has no answer to but another try. The same one is logged once, until an object is received.
func (f *follower[T]) log(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	if text := bounded(err).Error(); text != f.logged || f.events > f.loggedAt {
		f.logged, f.loggedAt = text, f.events
		klog.FromContext(ctx).Error(bounded(err), "Failed to watch", "resource", f.resource)
	}
}

func newDelays() *wait.Backoff {
	return &wait.Backoff{
		Duration: firstRewatch, Cap: lastRewatch, Factor: rewatchFactor, Jitter: rewatchJitter, Steps: rewatchSteps,
	}
}

// follow continues the watch, or lists and watches, until that ends.
func (f *follower[T]) follow(ctx context.Context) error {
	switch {
	case f.version != "":
		return f.watch(ctx)
	case f.byList || f.noStreamingLists.Load():
		f.byList = false
		if err := f.list(ctx); err != nil {
			return err
		}
		return f.watch(ctx)
	}
	err := f.streamList(ctx)
	f.byList = f.version == ""
	if f.byList && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsNotAcceptable(err)) {
		f.noStreamingLists.Store(true)
		return f.follow(ctx)
	}
	return err
}

// list reads all objects with a LIST, in their latest state: a drain is complete when no pod is listed. From Kubernetes 1.31 on, the server has
// that in its cache too (https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list).
func (f *follower[T]) list(ctx context.Context) error {
	ctx, idle := withIdleTimeout(ctx)
	defer idle.stop()
	body, err := f.request(metav1.ListOptions{}, "List").Stream(ctx)
	if err != nil {
		return causeOr(ctx, err)
	}
	defer func() { _ = body.Close() }()
	f.sink.begin()
	reader := listReader{visit: func(object []byte) error {
		idle.reset()
		f.events++
		return f.decodeInto(object, f.sink.put)
	}}
	metadata, err := reader.read(body)
	if err != nil {
		return causeOr(ctx, fmt.Errorf("read a list of %s: %w", f.resource, err))
	}
	f.complete(metadata.ResourceVersion)
	return nil
}

// complete ends a list that is complete at this version.
func (f *follower[T]) complete(version string) {
	f.sink.end()
	f.version = version
	f.live.Store(true)
	f.once.Do(func() { close(f.synced) })
}

// streamList watches from the list on: it begins with the objects that exist.
func (f *follower[T]) streamList(ctx context.Context) error {
	initial := true
	return f.receive(ctx, metav1.ListOptions{
		SendInitialEvents: &initial, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
}

// watch continues after the version that was seen last. If the server does not know that version any more, a list is next.
func (f *follower[T]) watch(ctx context.Context) error {
	err := f.receive(ctx, metav1.ListOptions{ResourceVersion: f.version})
	if isOutdated(err) || errors.Is(err, errMalformed) {
		f.version = ""
	}
	return err
}

// isOutdated reports whether the server cannot start from the version of the request.
func isOutdated(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

func (f *follower[T]) receive(ctx context.Context, options metav1.ListOptions) error {
	seconds := int64(minWatchTime.Seconds() * (1 + rand.Float64()))
	options.Watch, options.AllowWatchBookmarks, options.TimeoutSeconds = true, true, &seconds
	ctx, idle := withIdleTimeout(ctx)
	defer idle.stop()
	body, err := f.request(options, "").Stream(ctx)
	if err != nil {
		return causeOr(ctx, err)
	}
	defer func() { _ = body.Close() }()
	if f.version == "" {
		f.sink.begin()
	}
	for frames := newFrameReader(body); ; {
		if f.version != "" {
			f.live.Store(true)
			idle.disarm()
		}
		kind, object, err := frames.next()
		if err == nil {
			idle.reset()
			f.events++
			err = f.handle(watch.EventType(kind), object)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return causeOr(ctx, fmt.Errorf("watch %s: %w", f.resource, err))
		}
	}
}

// handle passes one event to the sink.
func (f *follower[T]) handle(kind watch.EventType, object []byte) error {
	if kind == watch.Error {
		status := metav1.Status{}
		if err := status.Unmarshal(object); err != nil {
			return errMalformed
		}
		return apierrors.FromObject(&status)
	}
	read := versionFields
	if kind == watch.Bookmark {
		read = bookmarkFields
	}
	var metadata metav1.PartialObjectMetadata
	if err := decodeKept(object, read, &metadata); err != nil {
		return errMalformed
	}
	switch kind {
	case watch.Added, watch.Modified:
		if err := f.decodeInto(object, f.sink.put); err != nil {
			return err
		}
	case watch.Deleted:
		if err := f.decodeInto(object, f.sink.drop); err != nil {
			return err
		}
	case watch.Bookmark:
		if f.version == "" && metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			f.complete(metadata.ResourceVersion)
		}
	}
	if f.version != "" && metadata.ResourceVersion != "" {
		f.version = metadata.ResourceVersion
	}
	return nil
}

// What a watch itself reads of an object: its version, and of a bookmark the annotation that the list is complete.
var (
	versionFields  = wireFields{objectMetadata: {6: nil}}
	bookmarkFields = wireFields{objectMetadata: {6: nil, 12: nil}}
)

func (f *follower[T]) decodeInto(object []byte, pass func(T)) error {
	decoded, err := f.decode(object)
	if err != nil {
		return errors.Join(errMalformed, err)
	}
	pass(decoded)
	return nil
}

// request returns a request that client-go does not repeat: the follower does.
func (f *follower[T]) request(options metav1.ListOptions, list string) *rest.Request {
	if f.field != nil {
		options.FieldSelector = f.field.String()
	}
	accept := protobuf
	if f.metadata {
		accept += ";as=PartialObjectMetadata" + list + ";g=meta.k8s.io;v=v1"
	}
	return f.api.Get().NamespaceIfScoped(f.namespace, f.namespace != "").Resource(f.resource).
		VersionedParams(&options, params).SetHeader("Accept", accept).MaxRetries(0)
}

// idleTimeout ends a request that makes no progress for listIdleTimeout.
type idleTimeout struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
	off    bool
}

func withIdleTimeout(ctx context.Context) (context.Context, *idleTimeout) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &idleTimeout{timer: time.AfterFunc(listIdleTimeout, func() { cancel(errIdle) }), cancel: cancel}
}

func (i *idleTimeout) reset() {
	if !i.off {
		i.timer.Reset(listIdleTimeout)
	}
}

// disarm lets the request wait: a watch without changes sends nothing.
func (i *idleTimeout) disarm() {
	i.off = true
	i.timer.Stop()
}

func (i *idleTimeout) stop() {
	i.timer.Stop()
	i.cancel(nil)
}

// causeOr returns why the request's context has ended, if it has, and err otherwise.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
