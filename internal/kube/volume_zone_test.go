package kube

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quiesce/internal/escort"
)

// serve returns a client of a server that has these objects, in JSON, by path. What has no text is forbidden.
func serve(t *testing.T, objects map[string]string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		text, has := objects[r.URL.Path]
		if !has {
			w.WriteHeader(http.StatusNotFound)
			text = `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"NotFound","code":404}`
		} else if text == "" {
			w.WriteHeader(http.StatusForbidden)
			text = `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"Forbidden","code":403}`
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(server.Close)
	client, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	return client
}

func TestVolumeZones_OfAClaim_AsFarAsItsVolumeIsZonal(t *testing.T) {
	const claims, volumes = "/api/v1/namespaces/db/persistentvolumeclaims/", "/api/v1/persistentvolumes/"
	claim := func(provisioner, volume string) string {
		return `{"metadata":{"annotations":{"volume.kubernetes.io/storage-provisioner":"` + provisioner + `"}},"spec":{"volumeName":"` + volume + `"}}`
	}
	client := serve(t, map[string]string{
		claims + "ebs": claim("ebs.csi.aws.com", "secret"), claims + "efs": claim("efs.csi.aws.com", "secret"), claims + "static": claim("", "zonal"),
		claims + "local": claim("", "local"), claims + "pending": claim("", ""), claims + "secret": claim("", "secret"), claims + "odd": claim("", "../nodes"),
		volumes + "zonal": `{"spec":{"nodeAffinity":{"required":{"nodeSelectorTerms":[
			{"matchExpressions":[{"key":"x","operator":"In","values":["y"]},{"key":"topology.kubernetes.io/zone","operator":"In","values":["b"]}]},
			{"matchExpressions":[{"key":"topology.ebs.csi.aws.com/zone","operator":"In","values":["a","b"]}]}]}}}}`,
		volumes + "local": `{"spec":{"nodeAffinity":{"required":{"nodeSelectorTerms":[
			{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["node-a"]}]}]}}}}`,
		volumes + "secret": "",
	})
	for name, want := range map[string][]string{"ebs": {"here"}, "efs": nil, "static": {"a", "b"}, "local": nil, "pending": nil, "none": nil} {
		zones, err := client.VolumeZones(t.Context(), "db", name, "here")
		require.NoError(t, err, name)
		require.Equal(t, want, zones, name)
	}
	for _, name := range []string{"secret", "odd"} {
		_, err := client.VolumeZones(t.Context(), "db", name, "here")
		require.ErrorContains(t, err, "get the volume of claim db/"+name)
	}
	_, err := client.VolumeZones(t.Context(), "db", "secret", "here")
	require.ErrorIs(t, err, escort.ErrForbidden)
	_, err = client.VolumeZones(t.Context(), "db", "ebs", "")
	require.ErrorIs(t, err, escort.ErrForbidden, "without a zone here, the volume says it")
}

func TestOtherNodeStays_OfTheZone_IsReadyAndTakesPods(t *testing.T) {
	node := func(change func(*corev1.Node)) corev1.Node {
		n := corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "other"},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		}
		change(&n)
		return n
	}
	for name, c := range map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"another":   {func(*corev1.Node) {}, true},
		"itself":    {func(n *corev1.Node) { n.Name = "self" }, false},
		"cordoned":  {func(n *corev1.Node) { n.Spec.Unschedulable = true }, false},
		"leaving":   {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: terminatingTaint.Key}} }, false},
		"deleted":   {func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: time.Now()} }, false},
		"not ready": {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, false},
		"Fargate":   {func(n *corev1.Node) { n.Labels = map[string]string{"eks.amazonaws.com/compute-type": "fargate"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(c.change)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/nodes" || r.URL.Query().Get("labelSelector") != "topology.kubernetes.io/zone in (a,b)" {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				writeList(w, &n, 1, func() {})
			}))
			defer server.Close()
			client, err := New(&rest.Config{Host: server.URL})
			require.NoError(t, err)
			stays, err := client.OtherNodeStays(t.Context(), []string{"b", "a"}, "self")
			require.NoError(t, err)
			require.Equal(t, c.want, stays)
			_, err = client.OtherNodeStays(t.Context(), []string{"a,b)"}, "self")
			require.ErrorContains(t, err, "find nodes of zones")
		})
	}
}
