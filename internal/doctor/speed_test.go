package doctor

import (
	"fmt"
	"testing"

	"quiesce/internal/termination"
)

// BenchmarkExamine_LargeCluster has 1,000 nodes, 30,000 pods and 1,000 PDBs. A person waits for the checks.
func BenchmarkExamine_LargeCluster(b *testing.B) {
	w := &world{}
	w.Instances = map[string]termination.EC2Instance{}
	for n := range 1000 {
		w.addLargeNode(n)
	}
	for b.Loop() {
		Examine(w.Snapshot, "")
	}
}

func (w *world) addLargeNode(n int) {
	name, namespace := fmt.Sprintf("node-%d", n), fmt.Sprintf("team-%d", n%50)
	labels := map[string]string{"app": name}
	w.addNode(name, "eu-west-1a")
	w.addPDB(namespace, name, labels)
	for i := range 30 {
		w.addVolume(fmt.Sprintf("volume-%d-%d", n, i), "topology.kubernetes.io/zone", "eu-west-1a", w.addPod(namespace, name, i, name, labels))
	}
}
