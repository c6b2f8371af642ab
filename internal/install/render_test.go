package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"quiesce/internal/config"
)

var everything = Options{
	Consoles:      []Console{{Namespace: "pool", Secrets: []string{"admin", "other"}, Forward: true}, {Namespace: "pool-b", Forward: true}},
	Patroni:       []Cluster{{Namespace: "db", Name: "orders", Members: []string{"orders-0", "orders-1"}}, {Namespace: "crm", Name: "demo", Members: []string{"demo-0"}}},
	CloudNativePG: []Cluster{{Namespace: "db", Name: "billing", Members: []string{"billing-1", "billing-4"}}},
}

func TestManifests_Copies_AreThoseOfInfra(t *testing.T) {
	folder := filepath.Join("..", "..", "infra")
	originals, err := filepath.Glob(filepath.Join(folder, "rbac*.yaml"))
	require.NoError(t, err)
	copies, err := files.ReadDir("manifests")
	require.NoError(t, err)
	require.Len(t, originals, len(copies))
	for _, c := range copies {
		want, err := os.ReadFile(filepath.Join(folder, c.Name()))
		require.NoError(t, err)
		got, err := files.ReadFile("manifests/" + c.Name())
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "go generate ./internal/install copies %s", c.Name())
	}
}

func TestObjects_Templates_AreFilledIn(t *testing.T) {
	objects, err := Objects(everything)
	require.NoError(t, err)
	byName := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		require.NotContains(t, byName, describe(o), "each object is there once")
		byName[describe(o)] = o
	}
	rules := func(name string) []any {
		require.Contains(t, byName, name)
		found, _, err := unstructured.NestedSlice(byName[name].Object, "rules")
		require.NoError(t, err)
		return found
	}
	names := func(name string) (all []any) {
		for _, rule := range rules(name) {
			if named, is := rule.(map[string]any)["resourceNames"].([]any); is {
				all = append(all, named...)
			}
		}
		return all
	}
	require.Equal(t, "Namespace quiesce", describe(objects[0]))
	require.Len(t, rules("Role pool/quiesce-console"), 2)
	require.Equal(t, []any{"admin", "other"}, names("Role pool/quiesce-console"))
	require.Len(t, rules("Role pool-b/quiesce-console"), 1, "no Secret")
	require.Contains(t, names("Role db/quiesce-postgres-orders"), "orders-failover")
	require.Contains(t, names("Role db/quiesce-postgres-orders"), "orders-1:8008")
	require.Contains(t, names("Role crm/quiesce-postgres-demo"), "demo-0:8008")
	require.NotContains(t, names("Role crm/quiesce-postgres-demo"), "demo-1:8008")
	require.Subset(t, names("Role db/quiesce-postgres-billing"), []any{"billing", "https:billing-4:8000"})
	require.Contains(t, byName, "ValidatingAdmissionPolicy quiesce-switchovers")
	for name, o := range byName {
		text, err := o.MarshalJSON()
		require.NoError(t, err)
		if strings.Contains(name, "orders") || strings.Contains(name, "billing") {
			require.NotRegexp(t, `"(demo|pg)\b`, string(text), name)
		}
		if strings.HasPrefix(name, "RoleBinding") {
			role, _, _ := unstructured.NestedString(o.Object, "roleRef", "name")
			require.Contains(t, byName, "Role "+o.GetNamespace()+"/"+role, name)
		}
	}
}

func TestRender_Comments_Stay(t *testing.T) {
	text, err := Render(everything)
	require.NoError(t, err)
	require.Contains(t, string(text), "# Evict them, within their PodDisruptionBudgets.")
}

func TestConsoles_Configuration_SaysWhichNamespaces(t *testing.T) {
	parse := func(phase string) config.Config {
		c, err := config.Parse([]byte("cluster: c\nautoScalingGroups: [g]\nmode: drain\nphases:\n"+phase+"  - name: workloads\n"), func(string) string { return "" })
		require.NoError(t, err)
		return c
	}
	named := parse("  - name: poolers\n    match: {labelSelector: app=pgbouncer, namespaces: [pool, 'team-*']}\n" +
		"    escort: {pgbouncer: {secretRef: {namespace: pool, name: admin}}}\n")
	consoles, err := Consoles(named, []string{"team-a"})
	require.NoError(t, err)
	require.Equal(t, []Console{{"pool", []string{"admin"}, true}, {"team-a", nil, true}}, consoles)

	databases := parse("  - name: databases\n    match: {namespaces: [db]}\n    escort: {postgres: {secretRef: {namespace: pool, name: mover}}}\n" +
		"  - name: poolers\n    match: {namespaces: [pool]}\n    escort: {pgbouncer: {secretRef: {namespace: pool, name: admin}}}\n")
	consoles, err = Consoles(databases, nil)
	require.NoError(t, err)
	require.Equal(t, []Console{{"pool", []string{"mover", "admin"}, true}}, consoles, "no ports of databases")

	noLogin := parse("  - name: poolers\n    match: {labelSelector: app=pgbouncer, namespaces: [pool]}\n    escort: {pgbouncer: {}}\n")
	consoles, err = Consoles(noLogin, []string{"team-a"})
	require.NoError(t, err)
	require.Empty(t, consoles, "a console without a login is never reached")

	rest := parse("  - name: databases\n    match: {namespaces: [db]}\n    escort: {postgres: {connectVia: podIP, restSecretRef: {namespace: db, name: rest}}}\n")
	consoles, err = Consoles(rest, nil)
	require.NoError(t, err)
	require.Equal(t, []Console{{"db", []string{"rest"}, false}}, consoles)

	ofSecret := parse("  - name: poolers\n    match: {labelSelector: app=pgbouncer}\n" +
		"    escort: {pgbouncer: {secretRef: {namespace: pool, name: admin}}}\n")
	consoles, err = Consoles(ofSecret, nil)
	require.NoError(t, err)
	require.Equal(t, []Console{{"pool", []string{"admin"}, true}}, consoles, "the login serves that namespace only")

	ownLogin := parse("  - name: databases\n    match: {namespaces: [db]}\n    escort: {postgres: {secretRef: {namespace: pool, name: mover}}}\n" +
		"  - name: poolers\n    match: {namespaces: [pool, web]}\n    escort: {pgbouncer: {}}\n")
	consoles, err = Consoles(ownLogin, nil)
	require.NoError(t, err)
	require.Equal(t, []Console{{"pool", []string{"mover"}, true}}, consoles)

	arn := "arn:aws:secretsmanager:eu-west-1:111122223333:secret:admin-AbCdEf"
	ofARN := parse("  - name: databases\n    match: {namespaces: [db]}\n    escort: {postgres: {secretArn: '" + arn + "'}}\n" +
		"  - name: poolers\n    match: {namespaces: [pool]}\n    escort: {pgbouncer: {}}\n")
	consoles, err = Consoles(ofARN, nil)
	require.NoError(t, err)
	require.Equal(t, []Console{{"pool", nil, true}}, consoles, "no ports of databases")

	everywhere := parse("  - name: poolers\n    match: {namespaces: ['team-*']}\n    escort: {pgbouncer: {secretArn: '" + arn + "'}}\n")
	_, err = Consoles(everywhere, nil)
	require.ErrorContains(t, err, "phase poolers names no namespace of its poolers")
	_, err = Consoles(everywhere, []string{"No Name"})
	require.ErrorContains(t, err, `namespace "No Name" is not a valid name`)

	consoles, err = Consoles(parse(""), nil)
	require.NoError(t, err)
	require.Empty(t, consoles)
}

func TestParseCluster_Text_NamesOrError(t *testing.T) {
	c, err := ParseCluster("db/orders=orders-0,orders-1")
	require.NoError(t, err)
	require.Equal(t, Cluster{"db", "orders", []string{"orders-0", "orders-1"}}, c)
	for text, want := range map[string]string{
		"db/orders": "no members", "orders=orders-0": `the name "" is not a valid name`, "db/../x=a": "is not a valid name", "db/orders=orders-0,": `the member "" is not a valid name`,
	} {
		_, err := ParseCluster(text)
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, "such as db/orders=orders-0,orders-1")
	}
}

// One of the two would be left out, with its members.
func TestObjects_ClusterNamedTwice_Refused(t *testing.T) {
	orders := func(member string) Cluster { return Cluster{"db", "orders", []string{member}} }
	for _, o := range []Options{
		{Patroni: []Cluster{orders("orders-0"), orders("orders-1")}},
		{CloudNativePG: []Cluster{orders("orders-0"), orders("orders-1")}},
		{Patroni: []Cluster{orders("orders-0")}, CloudNativePG: []Cluster{orders("orders-1")}},
	} {
		_, err := Objects(o)
		require.EqualError(t, err, "cluster db/orders is named twice: name it once, with all its pods")
		_, err = Render(o)
		require.Error(t, err)
	}
	_, err := Objects(Options{Patroni: []Cluster{orders("orders-0"), {"crm", "orders", []string{"orders-0"}}}})
	require.NoError(t, err)
}

func TestDifferences_Fields_OneLineEach(t *testing.T) {
	before := map[string]any{"a": map[string]any{"b": []any{"x", "y"}, "c": 1}, "gone": true}
	after := map[string]any{"a": map[string]any{"b": []any{"x", "z"}, "c": 1}, "new": []any{"n"}}
	require.Equal(t, []string{`a.b[1]: "y" -> "z"`, `gone: true -> null`, `new: null -> ["n"]`}, differences("", before, after))
	require.Empty(t, differences("", before, before))
}
