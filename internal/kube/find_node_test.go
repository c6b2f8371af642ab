package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// object adds a Node object as a kubelet registers it.
func (e *taintEnv) object(name, providerID, ip string) {
	e.Helper()
	_, err := e.Client().CoreV1().Nodes().Create(e.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{ProviderID: providerID},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}},
		},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
	e.Cleanup(func() { _ = e.RemoveNode(context.Background(), name) })
}

func namesOf(nodes []drain.Node) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

func TestFindNodes_OneLookup_IsNotTheTruth(t *testing.T) {
	type object struct{ name, instance, ip string } // of the Node; an empty instance is a node without a provider ID
	const ours, theirs, ours6 = "10.0.0.1", "10.0.0.2", "2001:db8::1"
	known := termination.EC2Instance{PrivateDNS: "named", Addresses: addresses(ours, ours6)}
	for what, c := range map[string]struct {
		objects   []object
		known     termination.EC2Instance
		found     []string
		ambiguity string // a part of it
	}{
		"the right name and provider ID":           {[]object{{"named", "i-1", theirs}}, known, []string{"named"}, ""},
		"another name, the right address":          {[]object{{"custom", "i-1", ours}}, known, []string{"custom"}, ""},
		"another name, EC2 says nothing":           {[]object{{"custom", "i-1", ours}}, termination.EC2Instance{}, []string{"custom"}, ""},
		"another name and address":                 {[]object{{"custom", "i-1", theirs}}, known, []string{"custom"}, "neither the name nor the address"},
		"the name of an instance that is gone":     {[]object{{"named", "i-gone", ours}}, known, []string{"named"}, `provider ID of "i-gone"`},
		"the name of another instance":             {[]object{{"named", "i-2", theirs}}, known, nil, ""},
		"no provider ID yet":                       {[]object{{"named", "", ours}}, known, []string{"named"}, "no provider ID"},
		"no provider ID yet, of IPv6":              {[]object{{"named", "", "2001:db8:0:0::1"}}, known, []string{"named"}, "no provider ID"},
		"no provider ID, another address of IPv6":  {[]object{{"named", "", "2001:db8::2"}}, known, nil, ""},
		"no provider ID, another address":          {[]object{{"named", "", theirs}}, known, nil, ""},
		"no provider ID, another name":             {[]object{{"custom", "", ours}}, known, nil, ""},
		"an ID that ends in ours":                  {[]object{{"custom", "x-i-1", ours}}, known, nil, ""},
		"two claimants, one has the address":       {[]object{{"a", "i-1", theirs}, {"b", "i-1", ours}}, known, []string{"b", "a"}, "(by address), "},
		"two claimants, nobody knows":              {[]object{{"b", "i-1", theirs}, {"a", "i-1", theirs}}, known, []string{"a", "b"}, "2 nodes are taken"},
		"a claimant beside the name's stale ID":    {[]object{{"a", "i-1", theirs}, {"named", "i-gone", ours}}, known, []string{"named", "a"}, "(by name), "},
		"a claimant beside another instance's own": {[]object{{"a", "i-1", ours}, {"named", "i-2", theirs}}, known, []string{"a"}, ""},
		"none": {nil, known, nil, ""},
	} {
		t.Run(what, func(t *testing.T) {
			e := newTaintEnv(t, 0)
			of := func(name string) string { // names and instances of this test only
				if name == "" {
					return ""
				}
				return name + "-" + e.namespace
			}
			for _, o := range c.objects {
				id := ""
				if o.instance != "" {
					id = "aws:///us-east-1a/" + of(o.instance)
				}
				e.object(of(o.name), id, o.ip)
			}
			c.known.PrivateDNS = of(c.known.PrivateDNS)
			found, err := e.client.FindNodes(t.Context(), of("i-1"), c.known)
			require.NoError(t, err)
			var names []string
			for _, name := range c.found {
				names = append(names, of(name))
			}
			require.Equal(t, names, namesOf(found.Nodes))
			require.NotContains(t, found.Ambiguity, "\n")
			if c.ambiguity == "" {
				require.Empty(t, found.Ambiguity)
			} else {
				require.Contains(t, strings.ReplaceAll(found.Ambiguity, "-"+e.namespace, ""), c.ambiguity)
			}
		})
	}
}

func addresses(all ...string) (parsed []netip.Addr) {
	for _, a := range all {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return parsed
}

// Any number of Node objects can claim an instance.
func TestFindNodes_ManyClaimants_AreBounded(t *testing.T) {
	e := newTaintEnv(t, 0)
	id := "i-" + e.namespace
	for i := range maxCandidates + 3 {
		e.object(fmt.Sprintf("%s-%02d", e.namespace, i), "aws:///us-east-1a/"+id, fmt.Sprintf("10.0.0.%d", i))
	}
	found, err := e.client.FindNodes(t.Context(), id, termination.EC2Instance{PrivateDNS: "none", Addresses: addresses("10.0.0.12")})
	require.NoError(t, err)
	require.Len(t, found.Nodes, maxCandidates)
	require.Equal(t, e.namespace+"-12", found.Nodes[0].Name, "the confirmed one stays, though it comes last")
	require.Contains(t, found.Ambiguity, "13 nodes are taken")
	require.Contains(t, found.Ambiguity, "8 more")
}

func TestFindNodes_RightNameAndID_OneRequest(t *testing.T) {
	e := newTaintEnv(t, 1)
	clear(e.requests)
	found, err := e.client.FindNodes(t.Context(), e.nodes[0].InstanceID, termination.EC2Instance{PrivateDNS: e.nodes[0].Name})
	require.NoError(t, err)
	require.Len(t, found.Nodes, 1)
	require.Equal(t, map[string]int{http.MethodGet: 1}, e.requests)
}

// A kubelet reports up to 50 images. A candidate keeps none of them, and what Cordon needs.
func TestWithoutImages_LargeNode_KeepsWhatACordonNeeds(t *testing.T) {
	full := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "1", ManagedFields: make([]metav1.ManagedFieldsEntry, 9)},
		Spec:       corev1.NodeSpec{ProviderID: "aws:///z/i-1"},
		Status:     corev1.NodeStatus{Images: make([]corev1.ContainerImage, 50), Addresses: []corev1.NodeAddress{{Address: "10.0.0.1"}}},
	}
	kept := withoutImages(full)
	require.Empty(t, kept.Status.Images)
	require.Empty(t, kept.ManagedFields)
	require.Equal(t, *toNode(full), *toNode(kept))
	require.Equal(t, "1", kept.ResourceVersion)
	require.Equal(t, full.Status.Addresses, kept.Status.Addresses)
}

func TestReadNodes_Taken_AreForgottenAndBounded(t *testing.T) {
	var r readNodes
	r.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}})
	require.Nil(t, r.take(drain.Node{Name: "a", UID: "2"}), "another node of the name")
	r.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}})
	require.NotNil(t, r.take(drain.Node{Name: "a", UID: "1"}))
	require.Nil(t, r.take(drain.Node{Name: "a", UID: "1"}))
	for i := range 10 * maxRemembered {
		r.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}})
	}
	require.LessOrEqual(t, len(r.nodes), maxRemembered)
}

// What kubelets report of their nodes can be large: a page of 500 nodes must not be in memory at once.
func TestFindNodes_LargeNodes_MemoryIsBounded(t *testing.T) {
	const nodes, size = 300, 1 << 20
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Spec: corev1.NodeSpec{ProviderID: "aws:///us-east-1a/i-1"}}
	for range size >> 10 {
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{Names: []string{strings.Repeat("a", 1<<10)}})
	}
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeList(w, &node, nodes, func() { served.Add(1) })
	}))
	defer server.Close()
	client, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)

	gauge, seen := newHeapGauge(), 0
	require.NoError(t, client.eachNode(t.Context(), metav1.ListOptions{}, func(n *corev1.Node) (done bool) {
		require.Equal(t, node.Spec, n.Spec)
		if seen%10 == 0 {
			gauge.measure()
		}
		seen++
		return false
	}))
	require.Equal(t, nodes, seen)
	require.Less(t, gauge.growth(), uint64(32*size), "of %d MB that were sent", nodes*size>>20)
	found, err := client.FindNodes(t.Context(), "i-1", termination.EC2Instance{})
	require.NoError(t, err)
	require.Len(t, found.Nodes, maxCandidates)
	require.EqualValues(t, 2*nodes, served.Load())
}
