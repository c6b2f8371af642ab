package doctor

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// object is what this test needs of any object.
type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Rules             []rbacv1.PolicyRule `json:"rules"`
}

func manifest(t *testing.T) (all []object) {
	t.Helper()
	text, err := os.ReadFile("../../infra/rbac.yaml")
	require.NoError(t, err)
	for part := range strings.SplitSeq(string(text), "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(part), &o))
		all = append(all, o)
	}
	return all
}

func TestPermissions_AreThoseOfTheManifest(t *testing.T) {
	var want []Permission
	for _, o := range manifest(t) {
		isOurs := o.Kind == "ClusterRole" && (o.Name == "quiesce" || o.Name == "quiesce-poolers") || o.Kind == "Role" && o.Namespace == Group
		if !isOurs {
			continue
		}
		for _, rule := range o.Rules {
			for _, resource := range rule.Resources {
				name, sub, _ := strings.Cut(resource, "/")
				for _, verb := range rule.Verbs {
					want = append(want, Permission{verb, rule.APIGroups[0], name, sub, o.Namespace})
				}
			}
		}
	}
	require.NotEmpty(t, want)
	require.ElementsMatch(t, want, Permissions())
	require.Equal(t, "create pods/eviction", Permission{"create", "", "pods", "eviction", ""}.String())
	require.Equal(t, "get leases in namespace quiesce", Permission{"get", "coordination.k8s.io", "leases", "", Group}.String())
}

func TestPolicies_AreThoseOfTheManifest(t *testing.T) {
	var want []string
	for _, o := range manifest(t) {
		if o.Kind == "ValidatingAdmissionPolicy" {
			want = append(want, o.Name)
		}
	}
	require.NotEmpty(t, want)
	require.ElementsMatch(t, want, Policies())
}
