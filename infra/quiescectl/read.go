package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quiesce/internal/config"
	"quiesce/internal/doctor"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
)

const (
	// requests per second of this tool. It sends some fifty in all, and a person waits.
	qps, burst = 50, 100
	// share is the part of the time that the first lists may take. What depends on them has the rest.
	share = 0.6
	// endTimeout is how long a request may take to end after its context. A silent API server would count as a plugin that hangs if it were
	// shorter. Longer, it would only delay the end.
	endTimeout = time.Second
)

// reader fills a snapshot. Its parts are read at the same time.
type reader struct {
	*options
	client *kubernetes.Clientset
	kube   *kube.Client

	mutex    sync.Mutex // guards snapshot.Unread; each part has its own fields of the rest
	snapshot doctor.Snapshot
}

// part is what is read at one time.
type part struct {
	name string
	read func(context.Context) error
}

// read reads everything that the checks need. It fails only if the cluster does not answer at all.
func (o *options) read(ctx context.Context, settings config.Config) (doctor.Snapshot, error) {
	access, named, err := o.connect()
	if err != nil {
		return doctor.Snapshot{}, err
	}
	r, err := newReader(o, access)
	if err != nil {
		return doctor.Snapshot{}, err
	}
	r.snapshot = doctor.Snapshot{Now: time.Now(), Config: settings, Configured: settings.Cluster != "", Version: version}
	first, cancel := context.WithTimeout(ctx, timeShare(ctx))
	defer cancel()
	if err := r.answers(first); err != nil {
		return doctor.Snapshot{}, err
	}
	r.all(first, r.clusterParts())
	r.all(ctx, r.dependentParts(cmp.Or(o.cluster, settings.Cluster, named.name)))
	slices.SortFunc(r.snapshot.Unread, func(a, b doctor.Unread) int { return cmp.Compare(a.Part, b.Part) })
	return r.snapshot, nil
}

func newReader(o *options, config *rest.Config) (*reader, error) {
	config.QPS, config.Burst = qps, burst
	config.WarningHandler = rest.NoWarnings{}
	own, err := kube.New(rest.CopyConfig(config))
	if err != nil {
		return nil, fmt.Errorf("make a client of the cluster: %w", err)
	}
	config.ContentConfig = rest.ContentConfig{AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json", ContentType: "application/vnd.kubernetes.protobuf"}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the cluster: %w", err)
	}
	return &reader{options: o, client: client, kube: own}, nil
}

// timeShare returns the share of the time that is left.
func timeShare(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return time.Duration(share * float64(time.Until(deadline)))
}

// answers returns why the API server cannot be used at all. The kubeconfig's credential plugin is first run here, and client-go runs it
// without a context: a request that does not end with its context is left behind.
func (r *reader) answers(ctx context.Context) (err error) {
	answered := make(chan error, 1)
	go func() { answered <- r.client.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Error() }()
	select {
	case err = <-answered:
	case <-ctx.Done():
		select {
		case err = <-answered:
		case <-time.After(endTimeout):
			err = errors.New("the kubeconfig's credential plugin may hang")
		}
	}
	if err == nil || apierrors.IsForbidden(err) {
		return nil
	}
	return fmt.Errorf("the cluster does not answer: %w\ncheck that this works: %s", err, r.aimed("kubectl version", ""))
}

// all reads the parts at the same time. One that fails is named in the snapshot, and does not disturb the others.
func (r *reader) all(ctx context.Context, parts []part) {
	var reading sync.WaitGroup
	for _, p := range parts {
		reading.Go(func() {
			if err := safely(ctx, p.read); err != nil {
				r.unread(p.name, err)
			}
		})
	}
	reading.Wait()
}

func safely(ctx context.Context, read func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return read(ctx)
}

// unread notes that a part could not be read, and what a person does about it.
func (r *reader) unread(name string, err error) {
	fix := "run it again; --timeout gives it more time"
	var advised advisedError
	switch {
	case errors.As(err, &advised):
		fix = advised.fix
	case apierrors.IsForbidden(err):
		fix = "ask for the permission that the error names, or use another login"
	case apierrors.IsUnauthorized(err):
		fix = "log in again: the cluster does not accept your credentials"
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.snapshot.Unread = append(r.snapshot.Unread, doctor.Unread{Part: name, Error: oneLine(err), Fix: fix})
}

// advisedError says what a person does about it.
type advisedError struct {
	error
	fix string
}

func (e advisedError) Unwrap() error { return e.error }

func oneLine(err error) string {
	return drain.Short(line(err.Error()))
}

// regionOf returns the region that the labels of nodes with an instance name; empty: none.
func regionOf(nodes []corev1.Node) string {
	for i := range nodes {
		if region := nodes[i].Labels[corev1.LabelTopologyRegion]; region != "" && doctor.InstanceID(&nodes[i]) != "" {
			return region
		}
	}
	return ""
}
