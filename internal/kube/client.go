// Package kube is the adapter to the Kubernetes API: nodes, pods, evictions, PodDisruptionBudgets and Leases, in the
// domain's terms.
//
// It uses bare REST clients and a scheme with only the types it needs. The generated clientset would register every API group
// at each start. That is most of a cold function's time to its first request.
package kube

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"

	"quiesce/internal/termination"
)

// protobuf is smaller than JSON and ten times cheaper to decode, which counts for a node full of pods.
const protobuf = "application/vnd.kubernetes.protobuf"

// callTimeout bounds one request. The API server itself may spend 10 s on an eviction whose PDB is contended. After 15 s an
// answer is not worth the wait, and the outcome of the request is unknown.
const callTimeout = 15 * time.Second

// The types are added when the first client is made, while AWS answers. Otherwise a cold function's first request would come 0.4 ms
// later.
var (
	scheme = runtime.NewScheme()
	params = runtime.NewParameterCodec(scheme)
	codecs = sync.OnceValue(func() serializer.CodecFactory {
		addTypes(scheme)
		return serializer.NewCodecFactory(scheme)
	})
)

// groups lists the API groups that a drain uses: the path, the version, and the function that adds the types to the scheme.
var groups = []struct {
	path    string
	version schema.GroupVersion
	add     func(*runtime.Scheme) error
}{
	{"/api", corev1.SchemeGroupVersion, corev1.AddToScheme},
	{"/apis", policyv1.SchemeGroupVersion, policyv1.AddToScheme},
	{"/apis", coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
	{"/apis", storagev1.SchemeGroupVersion, storagev1.AddToScheme},
}

func addTypes(s *runtime.Scheme) {
	for _, group := range groups {
		utilruntime.Must(group.add(s))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
}

var _ termination.Kubernetes = (*Client)(nil)

// Client is a connection to one cluster's API server.
type Client struct {
	config                              *rest.Config
	connections                         *connections
	moved                               *atomic.Bool // the API server is not at this address any more
	core, policy, coordination, storage rest.Interface

	takesOver bool // it takes Leases that others hold

	noStreamingLists atomic.Bool // the server has refused one: it is too old, or the feature is off
	lastRead         readNodes
}

// withoutRedirects returns a client that follows no redirect. The API server sends none, but a pod behind its proxy could: a request that
// follows has the function's token, whatever its host is.
func withoutRedirects(client *http.Client) *http.Client {
	copied := *client
	copied.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &copied
}

// New returns a client. config has the endpoint, its CA and a transport that authenticates.
func New(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.ContentType = protobuf
	config.AcceptContentTypes = protobuf + ",application/json"
	config.NegotiatedSerializer = codecs().WithoutConversion()
	moved := &atomic.Bool{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return newOneHandshake(errorLimiter{movedNoter{next, moved}})
	})
	// The API server warns of Endpoints, a deprecated kind, in each answer about one. Patroni keeps its state there.
	config.WarningHandler = rest.NoWarnings{}
	config.QPS = -1 // the drain's concurrency bounds the requests; client-side rate limiting would only add delay
	dialing := rest.CopyConfig(config)
	connections := newConnections(dialing)
	transport, err := rest.HTTPClientFor(dialing)
	if err != nil {
		return nil, fmt.Errorf("create an HTTP client for %s: %w", config.Host, err)
	}
	transport = withoutRedirects(transport)
	clients := make([]rest.Interface, len(groups))
	for i, group := range groups {
		config.APIPath, config.GroupVersion = group.path, &group.version
		if clients[i], err = rest.RESTClientForConfigAndClient(config, transport); err != nil {
			return nil, fmt.Errorf("create a client for %s: %w", group.version, err)
		}
	}
	return &Client{
		config: config, connections: connections, moved: moved, core: clients[0], policy: clients[1], coordination: clients[2], storage: clients[3],
	}, nil
}
