package drain

import "time"

// Pod is what a drain needs to know of one pod on the node.
type Pod struct {
	Ref
	Labels             map[string]string
	Annotations        map[string]string
	PriorityClass      string
	Controller         string        // kind of the owner that controls it; empty for a bare pod
	Grace              time.Duration // its own termination grace period
	Created            time.Time
	Deleted            time.Time // when its termination was asked for; zero while it runs
	Mirror             bool      // a static pod's image in the API: the kubelet owns the original
	Finished           bool      // succeeded or failed: nothing runs in it any more
	ToleratesCordon    bool      // tolerates the cordon: its controller may put a successor on this very node
	CreatedAfterCordon bool      // came while the node was watched, which begins after the cordon
	Claims             []string  // names of its PersistentVolumeClaims
	PDBs               []string  // disruption budgets that are known to select it, as namespace/name
	ContainersEndedAt  time.Time // when it was seen that nothing runs in it any more, and only finalizers keep it; zero: not so
	Finalizers         []string
}

// Ref names one pod, and not its successor of the same name.
type Ref struct {
	Namespace, Name, UID string
}

// String is the name that people know a pod by.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Terminating tells whether the pod has been asked to leave, by whomever.
func (p Pod) Terminating() bool { return !p.Deleted.IsZero() }
