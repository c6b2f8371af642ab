package escort

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestIsLabel_ManyTexts_AgreesWithKubernetes(t *testing.T) {
	long := strings.Repeat("a", 64)
	texts := []string{
		"", "a", "A-b_c.d", "-a", "a-", ".a", "a b", "a\n", "é", "a/b", "a/", "/a", "a/b/c", "example.com/a", "Example.com/a", "a..b/c", "../a",
		"quiesce/escort-state", long, long[1:], long + "/a", strings.Repeat("a", 254) + "/a", "\xff", "a\x00b",
	}
	for _, key := range texts {
		for _, value := range texts {
			valid := len(validation.IsQualifiedName(key)) == 0 && len(validation.IsValidLabelValue(value)) == 0
			if IsLabel(key, value) {
				require.True(t, valid, "%q=%q", key, value)
			} else if len(key) < 64 {
				require.False(t, valid, "%q=%q", key, value)
			}
		}
	}
}

func TestOwner_HostileParts_AreInvalid(t *testing.T) {
	good := Owner{Kind: "StatefulSet.apps.kruise.io", Name: "pgbouncer-5d4f", UID: "5a2d6b2e-6a4c-4a0e-9b39-0d4b7a4d0001"}
	require.True(t, good.Valid())
	require.False(t, Owner{}.Valid())
	for _, text := range []string{
		"", ".", "..", "../../../../../../api/v1/namespaces/T/pods/bait", "a/b", "a?watch=1", "a%2fb", "a b", "a\x00", "a\n", "-a", "é",
		strings.Repeat("a", 1<<20),
	} {
		for _, owner := range []Owner{
			{Kind: text, Name: good.Name, UID: good.UID}, {Kind: good.Kind, Name: text, UID: good.UID}, {Kind: good.Kind, Name: good.Name, UID: text},
		} {
			require.False(t, owner.Valid(), "%.50q", text)
		}
	}
}

func TestGroupLease_HostileOwner_NameIsValidAndItsOwn(t *testing.T) {
	names := map[string]string{}
	for _, namespace := range []string{"db", "db-a", "a", "", "../x", "DB", strings.Repeat("n", 63), strings.Repeat("n", 1000)} {
		for _, owner := range []string{
			"5a2d6b2e-6a4c-4a0e-9b39-0d4b7a4d0001", "a", "", "i-0abc1234", "../i-0abc1234", "../../../namespaces/default/pods/x", "a/b", "\x00",
			strings.Repeat("u", 1<<20), "db/a", "a-db",
		} {
			name := GroupLease("pooler", namespace, owner)
			require.Empty(t, validation.IsDNS1123Subdomain(name), name)
			require.False(t, strings.HasPrefix(name, "i-"), "an instance's Lease")
			key := namespace + "\n" + owner
			require.NotContains(t, names, name, "%.50q and %.50q", names[name], key)
			names[name] = key
		}
	}
}

// A tenant may give a pod the UID of another tenant's ReplicaSet as its owner.
func TestGroupLease_SameOwnerElsewhere_AnotherLease(t *testing.T) {
	require.NotEqual(t, GroupLease("pooler", "db", "uid"), GroupLease("pooler", "tenant", "uid"))
	require.Equal(t, GroupLease("pooler", "db", "uid"), GroupLease("pooler", "db", "uid"))
}
