package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
)

const (
	// listPage bounds the objects of one page. Few namespaces have more objects of a kind.
	listPage = 500
	// maxListBytes bounds a whole list, in JSON. Its objects are small: 32 MB are 10,000 or more of them.
	maxListBytes = 32 << 20
	// listTimeout bounds a whole list. Without a limit, a namespace full of large objects could take the drain's time.
	listTimeout = time.Minute
)

// resource is a namespaced kind of objects: the path of its API group, and its plural name.
type resource struct{ path, name string }

var (
	serviceResource       = resource{"/api/v1", "services"}
	replicaSetResource    = resource{"/apis/apps/v1", "replicasets"}
	statefulSetResource   = resource{"/apis/apps/v1", "statefulsets"}
	endpointSliceResource = resource{"/apis/discovery.k8s.io/v1", "endpointslices"}
	networkPolicyResource = resource{"/apis/networking.k8s.io/v1", "networkpolicies"}
)

// objectMeta is the part of an object's metadata that escorts need. JSON keys match these fields in any case.
type objectMeta struct {
	Name, UID string
	Labels    map[string]string
}

// read gets an object as JSON into a type that has only the required fields. Only escorts read these kinds, and rarely.
// Their three API groups in the scheme would make each start 0.5 ms longer and the function 0.8 MB larger.
// The name may come from another object, and the API server did not check it there.
func (c *Client) read(ctx context.Context, r resource, namespace, name string, into any) error {
	if !isName(namespace) || !isName(name) {
		return fmt.Errorf("%q in namespace %q is not the name of an object", drain.Short(name), drain.Short(namespace))
	}
	request := c.core.Get().AbsPath(r.path, "namespaces", namespace, r.name, name)
	body, err := stream(ctx, request.WarningHandler(rest.NoWarnings{})) // Endpoints are deprecated, and Patroni has them all the same
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return json.NewDecoder(&limitedReader{body, maxObjectBytes}).Decode(into)
}

// eachItem calls visit for each object of a kind in a namespace, page by page. One object at a time is in memory: a few megabytes of JSON can
// need ten times as much.
func eachItem[T any](ctx context.Context, c *Client, r resource, namespace string, visit func(T)) error {
	fail := func(err error) error { return fmt.Errorf("list %s of namespace %s: %w", r.name, namespace, err) }
	if !isName(namespace) {
		return fail(errors.New("this is not the name of a namespace"))
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	options := metav1.ListOptions{Limit: listPage}
	left := &limitedReader{nil, maxListBytes}
	for {
		request := c.core.Get().AbsPath(r.path, "namespaces", namespace, r.name).VersionedParams(&options, params)
		body, err := stream(ctx, request)
		if err != nil {
			return fail(err)
		}
		left.from = body
		metadata, err := decodeItems(left, visit)
		_ = body.Close()
		if err != nil {
			return fail(err)
		}
		if options.Continue = metadata.Continue; options.Continue == "" {
			return nil
		}
	}
}

// decodeItems calls visit for each item of a list in JSON. One item at a time is in memory.
func decodeItems[T any](body io.Reader, visit func(T)) (metadata metav1.ListMeta, err error) {
	decoder := json.NewDecoder(body)
	if _, err := decoder.Token(); err != nil { // the opening brace
		return metadata, err
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return metadata, err
		}
		switch key {
		case "metadata":
			err = decoder.Decode(&metadata)
		case "items":
			err = decodeArray(decoder, visit)
		default:
			var ignored json.RawMessage
			err = decoder.Decode(&ignored)
		}
		if err != nil {
			return metadata, err
		}
	}
	_, err = decoder.Token() // the closing brace: without it, the list is not complete
	return metadata, err
}

func decodeArray[T any](decoder *json.Decoder, visit func(T)) error {
	opening, err := decoder.Token()
	if err != nil || opening == nil { // null
		return err
	}
	for decoder.More() {
		var item T
		if err := decoder.Decode(&item); err != nil {
			return err
		}
		visit(item)
	}
	_, err = decoder.Token()
	return err
}

// stream sends a request and returns its answer, as JSON. The answer ends after callTimeout.
func stream(ctx context.Context, request *rest.Request) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	body, err := request.SetHeader("Accept", "application/json").Stream(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return &timedBody{body, cancel}, nil
}

// timedBody is an answer whose context ends with it.
type timedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *timedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// limitedReader fails after so many bytes. (io.LimitReader would end instead, as if the answer were complete.)
type limitedReader struct {
	from io.Reader
	left int
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("the answer is too large")
	}
	n, err := l.from.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// eachObject lists all objects that a request is about, and calls visit for each, encoded. One object at a time is in memory.
func eachObject(ctx context.Context, request *rest.Request, visit func(object []byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	ctx, idle := withIdleTimeout(ctx)
	defer idle.stop()
	body, err := request.SetHeader("Accept", protobuf).Stream(ctx)
	if err != nil {
		return causeOr(ctx, err)
	}
	defer func() { _ = body.Close() }()
	reader := listReader{visit: func(object []byte) error {
		idle.reset()
		return visit(object)
	}}
	if _, err = reader.read(body); err != nil {
		return causeOr(ctx, err)
	}
	return nil
}
