package kube

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/labels"
)

// countingSelector counts the pods that it is compared with.
type countingSelector struct {
	labels.Selector
	compared *int
}

func (s countingSelector) Matches(l labels.Labels) bool {
	*s.compared++
	return s.Selector.Matches(l)
}

// Every change on a node asks for all pods. Comparing each with each PDB every time took seconds of a drain of 500 pods.
func TestSelecting_NothingThatMattersChanged_ComparesNothing(t *testing.T) {
	d, compared := pdbsWith(), 0
	put := func(name, key string) {
		p := toPDB(newPDB(name, 1, 2, 4))
		if key != "" {
			exists, err := labels.Parse(key)
			require.NoError(t, err)
			p.selector = exists
		}
		p.selector = countingSelector{p.selector, &compared}
		namespaceSink{d, d.namespaces["app"]}.put(p)
	}
	pod := webPod("web-1")
	requireCompared := func(change string, want int, names ...string) {
		t.Helper()
		compared = 0
		require.Equal(t, names, d.withPDBs([]seenPod{pod})[0].PDBs, change)
		require.Equal(t, want, compared, change)
	}
	for n := range 3 {
		put(fmt.Sprint("pdb-", n), "")
	}
	requireCompared("first", 3, "app/pdb-0", "app/pdb-1", "app/pdb-2")
	requireCompared("again", 0, "app/pdb-0", "app/pdb-1", "app/pdb-2")
	put("pdb-0", "")
	requireCompared("another status", 0, "app/pdb-0", "app/pdb-1", "app/pdb-2")
	put("pdb-0", "other")
	requireCompared("another selector", 3, "app/pdb-1", "app/pdb-2")
	put("pdb-3", "")
	requireCompared("one more", 4, "app/pdb-1", "app/pdb-2", "app/pdb-3")
	namespaceSink{d, d.namespaces["app"]}.drop(toPDB(newPDB("pdb-1", 1, 2, 4)))
	requireCompared("one fewer", 3, "app/pdb-2", "app/pdb-3")
	pod.Labels = map[string]string{"other": ""}
	requireCompared("other labels", 3, "app/pdb-0")
	pod.UID = "another"
	requireCompared("another pod of this name", 3, "app/pdb-0")
	sink := namespaceSink{d, d.namespaces["app"]}
	sink.begin()
	sink.end()
	requireCompared("a list without any", 0)
}

// Whoever makes pods and deletes them again must not fill the memory with their labels.
func TestSelecting_PodsComeAndGo_OnlyThoseOfNowAreKept(t *testing.T) {
	d := pdbsWith()
	namespaceSink{d, d.namespaces["app"]}.put(toPDB(newPDB("pdb", 1, 2, 4)))
	for n := range 100 {
		pod := webPod(fmt.Sprint("web-", n))
		require.Equal(t, []string{"app/pdb"}, d.withPDBs([]seenPod{pod})[0].PDBs)
		require.Len(t, d.namespaces["app"].selecting, 1)
		d.reserve(pod, false)
		require.LessOrEqual(t, len(d.asked), 2)
	}
}
