package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// answering returns a client of a server that gives these answers, and the network that it is behind.
func answering(t *testing.T, answer func(*http.Request) string) (*Client, *network) {
	t.Helper()
	through := &network{answer: func(r *http.Request) *http.Response {
		return &http.Response{
			StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(answer(r))),
		}
	}}
	client, err := New(&rest.Config{Host: "https://cluster.example", Transport: through})
	require.NoError(t, err)
	return client, through
}

// writeList writes a list in protobuf that has this object so many times. Each calls it for each object that is sent.
func writeList(w http.ResponseWriter, object interface{ Marshal() ([]byte, error) }, times int, each func()) {
	encoded, err := object.Marshal()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	item := protowire.AppendBytes(protowire.AppendTag(nil, listItems, protowire.BytesType), encoded)
	head := protowire.AppendTag(append([]byte{}, protobufMagic...), unknownRaw, protowire.BytesType)
	w.Header().Set("Content-Type", protobuf)
	_, _ = w.Write(protowire.AppendVarint(head, uint64(times*len(item))))
	for range times {
		each()
		_, _ = w.Write(item)
	}
}

// hostileOwners are owner references that a tenant can write: the API server checks neither name nor UID.
var hostileOwners = map[string]metav1.OwnerReference{
	"a path":          {APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "../../../../../../api/v1/namespaces/T/pods/bait", UID: "1"},
	"a dotted path":   {APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "..", UID: "1"},
	"a query":         {APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web?watch=1", UID: "1"},
	"an encoded path": {APIVersion: "apps/v1", Kind: "StatefulSet", Name: "%2e%2e%2fbait", UID: "1"},
	"no name":         {APIVersion: "apps/v1", Kind: "ReplicaSet", UID: "1"},
	"a long UID":      {APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: types.UID(strings.Repeat("1", 1<<20))},
	"a path as UID":   {APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "../1"},
	"another group":   {APIVersion: "example.com/v1", Kind: "ReplicaSet", Name: "web", UID: "1"},
	"no group":        {APIVersion: "v1", Kind: "ReplicaSet", Name: "web", UID: "1"},
	"a long kind":     {APIVersion: "apps/v1", Kind: strings.Repeat("x", 1<<20), Name: "web", UID: "1"},
}

func TestOwner_HostileReference_ReadsNothing(t *testing.T) {
	for name, owner := range hostileOwners {
		t.Run(name, func(t *testing.T) {
			client, through := answering(t, func(*http.Request) string { return `{"metadata":{"uid":"1"},"spec":{}}` })
			yes, pod := true, podNamed("web", "1")
			owner.Controller = &yes
			pod.OwnerReferences = []metav1.OwnerReference{owner}
			seen := toPod(pod)
			require.LessOrEqual(t, len(seen.Controller)+len(seen.ControllerName)+len(seen.ControllerUID), 1000)
			found, err := client.controllerOf(t.Context(), *ToEscortPod(pod))
			require.NoError(t, err)
			require.Nil(t, found)
			require.Empty(t, through.seen)
		})
	}
}

// A name is checked again where it becomes part of a path.
func TestRead_NoName_SendsNothing(t *testing.T) {
	client, through := answering(t, func(*http.Request) string { return `{}` })
	for _, name := range []string{"../../secrets/x", "", "..", "a/b", "a?b", "A"} {
		owner := escort.Owner{Kind: "ReplicaSet", Name: name, UID: "1"}
		_, err := client.controllerOf(t.Context(), escort.Pod{Pod: drain.Pod{Ref: refNamed("app", "web", "1")}, Owner: owner})
		require.ErrorContains(t, err, "is not the name of an object")
		err = eachItem(t.Context(), client, serviceResource, name, func(service) {})
		require.ErrorContains(t, err, "not the name of a namespace")
	}
	require.Empty(t, through.seen)
}

func TestSelectors_OwnerWithoutSelector_NoPanic(t *testing.T) {
	client, _ := answering(t, func(r *http.Request) string {
		if strings.Contains(r.URL.Path, "/replicasets/") {
			return `{"metadata":{"name":"web","uid":"2"},"spec":{"replicas":1}}`
		}
		return `{"metadata":{},"items":[{"metadata":{"name":"x"},"spec":{}}, {"metadata":{"name":"y"}}]}`
	})
	pod := escort.Pod{Pod: drain.Pod{Ref: refNamed("app", "web", "1")}, Owner: escort.Owner{Kind: "ReplicaSet", Name: "web", UID: "2"}}
	found := escort.Selectors{}
	require.NoError(t, client.addOwner(t.Context(), pod, &found))
	require.Equal(t, &escort.Selector{Name: "web"}, found.Owner)
	policies, err := client.policiesOf(t.Context(), pod)
	require.NoError(t, err)
	require.Empty(t, policies)
	peers, err := client.Peers(t.Context(), pod)
	require.NoError(t, err)
	require.Empty(t, peers)
}

// A tenant can fill a namespace with large objects. They must not fill the function's memory.
func TestList_LargeObjects_IsBounded(t *testing.T) {
	pages := 0
	client, _ := answering(t, func(*http.Request) string {
		pages++
		item, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": "x", "annotations": map[string]string{"a": strings.Repeat("x", 1<<20)}}})
		require.NoError(t, err)
		return fmt.Sprintf(`{"metadata":{"continue":"more"},"items":[%s]}`, item)
	})
	err := eachItem(t.Context(), client, serviceResource, "app", func(service) {})
	require.ErrorContains(t, err, "too large")
	require.Equal(t, maxListBytes>>20, pages)

	client, _ = answering(t, func(*http.Request) string {
		return `{"metadata":{"name":"` + strings.Repeat("x", maxObjectBytes) + `"}}`
	})
	require.ErrorContains(t, client.read(t.Context(), replicaSetResource, "app", "web", &controller{}), "too large")
}

// An empty rule has three bytes in JSON, and 24 in memory. Twelve such policies together filled the function's memory.
func TestPoliciesOf_ManyEmptyRules_OneAtATimeInMemory(t *testing.T) {
	const policies, rules = 12, 100_000
	pages := 0
	client, _ := answering(t, func(*http.Request) string {
		pages++
		more := "more"
		if pages == policies {
			more = ""
		}
		return `{"metadata":{"continue":"` + more + `"},"items":[{"metadata":{"name":"x"},"spec":{"ingress":[{}` + strings.Repeat(",{}", rules-1) + `]}}]}`
	})
	gauge := newHeapGauge()
	var all []networkPolicy
	require.NoError(t, eachItem(t.Context(), client, networkPolicyResource, "app", func(p networkPolicy) {
		all = []networkPolicy{p}
		gauge.measure()
	}))
	require.Len(t, all[0].Spec.Ingress, rules)
	require.Equal(t, policies, pages)
	require.Less(t, gauge.growth(), uint64(4*rules*24), "of %d MB", policies*rules*24>>20)
}

func TestList_Pages_AllItems(t *testing.T) {
	client, through := answering(t, func(r *http.Request) string {
		if r.URL.Query().Get("continue") == "" {
			return `{"kind":"ServiceList","metadata":{"continue":"more"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`
		}
		return `{"items":null,"metadata":{}}`
	})
	var all []string
	require.NoError(t, eachItem(t.Context(), client, serviceResource, "app", func(s service) { all = append(all, s.Metadata.Name) }))
	require.Equal(t, []string{"a", "b"}, all)
	require.Len(t, through.seen, 2)
}

func TestList_AnswerIsCut_Fails(t *testing.T) {
	const whole = `{"metadata":{},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`
	for size := range len(whole) {
		client, _ := answering(t, func(*http.Request) string { return whole[:size] })
		require.Error(t, eachItem(t.Context(), client, serviceResource, "app", func(service) {}), whole[:size])
	}
}

func TestSeconds_AnyNumber_IsInBounds(t *testing.T) {
	for _, n := range []int64{-1 << 63, -1, 0, 1, 604_800, 1 << 40, 1<<63 - 1} {
		require.GreaterOrEqual(t, seconds(n), seconds(0))
		require.LessOrEqual(t, seconds(n), seconds(maxSeconds))
	}
	pod := terminatingPod(1<<63 - 1)
	require.True(t, toPod(pod).Deleted.Before(toPod(pod).StopsBy))
}

// endless never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func (e *endless) Close() error { return nil }

func TestRequest_ErrorIsEndless_IsBounded(t *testing.T) {
	for _, status := range []int{http.StatusMultipleChoices, http.StatusFound, http.StatusInternalServerError} {
		body := &endless{}
		through := &network{answer: func(*http.Request) *http.Response {
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/plain"}}, Body: body}
		}}
		client, err := New(&rest.Config{Host: "https://cluster.example", Transport: through})
		require.NoError(t, err)
		_, err = client.NodeByName(t.Context(), "node-a")
		require.Error(t, err)
		require.LessOrEqual(t, body.read, 2*maxErrorBody, status)
	}
}
