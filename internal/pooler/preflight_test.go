package pooler

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

var replicaSet = escort.Owner{Kind: "ReplicaSet", Name: "pgbouncer-5d4f", UID: "rs"}

// poolerPod returns a pooler's pod as charts make them, and what selects it.
func poolerPod() (escort.Pod, escort.Selectors) {
	pod := escort.Pod{
		Owner: replicaSet,
		Pod:   drain.Pod{Labels: labels{"app": "pgbouncer", "instance": "orders", "pod-template-hash": "5d4f", "zone": "a"}},
	}
	return pod, escort.Selectors{
		Owner:    &escort.Selector{Name: "pgbouncer-5d4f", Labels: labels{"app": "pgbouncer", "instance": "orders", "pod-template-hash": "5d4f"}},
		Replicas: 2,
		Services: []escort.Selector{{Name: "pgbouncer", Labels: labels{"app": "pgbouncer", "instance": "orders"}}},
		PDBs:     []escort.PDB{{Selector: escort.Selector{Name: "pgbouncer", Labels: labels{"app": "pgbouncer", "instance": "orders"}}}},
	}
}

func TestPreflight_Label_AllSelectOnItAndNoPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*escort.Pod, *escort.Selectors)
		key     string
		reasons []string // parts of it
	}{
		"as charts make them":   {func(*escort.Pod, *escort.Selectors) {}, "app", nil},
		"no service and no PDB": {func(_ *escort.Pod, a *escort.Selectors) { a.Services, a.PDBs = nil, nil }, "app", nil},
		"a service with fewer labels": {
			func(_ *escort.Pod, a *escort.Selectors) { a.Services[0].Labels = labels{"instance": "orders"} }, "instance", nil,
		},
		"a PDB with fewer labels": {
			func(_ *escort.Pod, a *escort.Selectors) { a.PDBs[0].Labels = labels{"instance": "orders"} }, "instance", nil,
		},
		"a policy on the other label": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Policies = []escort.Selector{{Name: "allow", Labels: labels{"app": "pgbouncer"}}}
			}, "instance", nil,
		},
		"a policy for all pods": {
			func(_ *escort.Pod, a *escort.Selectors) { a.Policies = []escort.Selector{{Name: "deny"}} }, "app", nil,
		},
		"only the template's hash is left to select on": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Services, a.PDBs, a.Owner.Labels = nil, nil, labels{"pod-template-hash": "5d4f"}
			},
			"pod-template-hash", nil,
		},
		"a second service on another label": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Services = append(a.Services, escort.Selector{Name: "by-zone", Labels: labels{"zone": "a"}})
			}, "", []string{"Service by-zone does not simply select on app; ", "Service by-zone does not simply select on instance"},
		},
		"services that have no label in common": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Services = []escort.Selector{{Name: "one", Labels: labels{"app": "pgbouncer"}}, {Name: "two", Labels: labels{"instance": "orders"}}}
			}, "", []string{"Service two does not simply select on app", "Service one does not simply select on instance"},
		},
		"a service on a label that the owner does not select on": {
			func(_ *escort.Pod, a *escort.Selectors) { a.Services[0].Labels = labels{"zone": "a"} }, "", []string{"Service pgbouncer"},
		},
		"a PDB for everything": {
			func(_ *escort.Pod, a *escort.Selectors) { a.PDBs[0].Labels = nil }, "", []string{"PDB pgbouncer does not simply select on app"},
		},
		"a second PDB on another label": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.PDBs = append(a.PDBs, escort.PDB{Selector: escort.Selector{Name: "by-zone", Labels: labels{"zone": "a"}}})
			}, "", []string{"PDB by-zone"},
		},
		"the owner asks for it by an expression": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Owner.Labels, a.Owner.Keys = labels{"instance": "orders"}, []string{"app"}
			}, "instance", nil,
		},
		"the owner asks for it twice": {
			func(_ *escort.Pod, a *escort.Selectors) { a.Owner.Keys = []string{"app"} }, "instance", nil,
		},
		"the owner asks for everything by expressions": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Owner.Labels, a.Owner.Keys = nil, []string{"app", "instance"}
			},
			"", []string{"on no exact label"},
		},
		"a service asks for it by an expression too": {
			func(_ *escort.Pod, a *escort.Selectors) { a.Services[0].Keys = []string{"app"} }, "instance", nil,
		},
		"a PDB asks for it by an expression": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.PDBs[0].Labels, a.PDBs[0].Keys = labels{"instance": "orders"}, []string{"app"}
			}, "instance", nil,
		},
		"a policy asks for it by an expression": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Policies = []escort.Selector{{Name: "allow", Keys: []string{"app"}}}
			}, "instance", nil,
		},
		"policies on all of them": {
			func(_ *escort.Pod, a *escort.Selectors) {
				a.Policies = []escort.Selector{{Name: "allow", Labels: labels{"app": "another"}, Keys: []string{"instance"}}}
			}, "", []string{"network policy allow selects on app", "network policy allow selects on instance", "Service pgbouncer"},
		},
		"the owner selects on another value": { // what was read of it is not of this moment
			func(p *escort.Pod, _ *escort.Selectors) { p.Labels["app"] = "changed" }, "instance", nil,
		},
		"a service selects on another value": {
			func(_ *escort.Pod, a *escort.Selectors) { a.Services[0].Labels["app"] = "changed" }, "instance", nil,
		},
		"a pod without an owner": {func(p *escort.Pod, _ *escort.Selectors) { p.Owner = escort.Owner{} }, "", []string{"it has no owner"}},
		"a StatefulSet's":        {func(p *escort.Pod, _ *escort.Selectors) { p.Owner.Kind = "StatefulSet" }, "", []string{"a StatefulSet makes no replacement"}},
		"a DaemonSet's":          {func(p *escort.Pod, _ *escort.Selectors) { p.Owner.Kind = "DaemonSet" }, "", []string{"a DaemonSet makes no replacement"}},
		"an unknown owner":       {func(_ *escort.Pod, a *escort.Selectors) { a.Owner = nil }, "", []string{"is not known"}},
		"an owner for none":      {func(_ *escort.Pod, a *escort.Selectors) { a.Replicas = 0 }, "", []string{"wants no pods"}},
	} {
		pod, selectors := poolerPod()
		c.change(&pod, &selectors)
		key, reason := preflight(pod, selectors)
		require.Equal(t, c.key, key, "%s: %s", name, reason)
		require.Equal(t, c.reasons == nil, reason == "", "%s: %s", name, reason)
		for _, part := range c.reasons {
			require.Contains(t, reason, part, name)
		}
	}
}

// selects is Kubernetes' rule for selectors without expressions: the pod must have every label.
func selects(s escort.Selector, pod labels) bool {
	for key, value := range s.Labels {
		if has, is := pod[key]; !is || has != value {
			return false
		}
	}
	return true
}

// randomSelector selects the pod by some of its labels, and may have expressions on others.
func randomSelector(r *rand.Rand, pod labels) escort.Selector {
	s := escort.Selector{Name: "some", Labels: labels{}}
	for key, value := range pod {
		switch r.IntN(4) {
		case 0, 1:
			s.Labels[key] = value
		case 2:
			s.Keys = append(s.Keys, key)
		}
	}
	return s
}

func randomPod(r *rand.Rand) (escort.Pod, escort.Selectors) {
	pod := escort.Pod{Owner: replicaSet, Pod: drain.Pod{Labels: labels{"a": "1", "b": "2", "c": "3", "d": "4"}}}
	owner := randomSelector(r, pod.Labels)
	selectors := escort.Selectors{Owner: &owner, Replicas: 1}
	for range r.IntN(3) {
		selectors.Services = append(selectors.Services, randomSelector(r, pod.Labels))
	}
	for range r.IntN(2) {
		selectors.PDBs = append(selectors.PDBs, escort.PDB{Selector: randomSelector(r, pod.Labels)})
	}
	for range r.IntN(2) {
		selectors.Policies = append(selectors.Policies, randomSelector(r, pod.Labels))
	}
	return pod, selectors
}

func TestPreflight_LabelRemoved_NothingSelectsThePod(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 5000 {
		pod, selectors := randomPod(r)
		key, reason := preflight(pod, selectors)
		require.Equal(t, key == "", reason != "")
		if key == "" {
			continue
		}
		found++
		less := maps.Clone(pod.Labels)
		delete(less, key)
		require.False(t, selects(*selectors.Owner, less))
		for _, service := range selectors.Services {
			require.False(t, selects(service, less))
		}
		for _, pdb := range selectors.PDBs {
			require.False(t, selects(pdb.Selector, less))
		}
		for _, policy := range selectors.Policies {
			require.NotContains(t, policy.Labels, key)
			require.NotContains(t, policy.Keys, key)
		}
	}
	require.Greater(t, found, 500, "the property was hardly tried")
}
