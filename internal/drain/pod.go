package drain

import "time"

// Pod has the fields of a pod on the node that a drain needs.
type Pod struct {
	Ref
	Labels             map[string]string
	Annotations        map[string]string
	PriorityClass      string
	Controller         string        // kind of the owner that controls it; empty for a bare pod
	ControllerName     string        // name of that owner
	ControllerUID      string        // UID of that owner
	Grace              time.Duration // its own termination grace period
	Created            time.Time
	Deleted            time.Time // when its termination was requested; zero while it runs
	StopsBy            time.Time // when the grace period of its termination ends; zero while it runs
	Mirror             bool      // a static pod's copy in the API: the kubelet manages the original
	Finished           bool      // succeeded or failed: no container runs in it any more
	CreatedAfterCordon bool      // first seen while the node was watched, which starts after the cordon
	Claims             []string  // names of its PersistentVolumeClaims
	PDBs               []string  // PDBs that are known to select it, as namespace/name
	ContainersEndedAt  time.Time // when only finalizers were seen to keep it; zero: not yet
	Finalizers         []string
}

// Ref identifies one pod: a successor of the same name has another UID.
type Ref struct {
	Namespace, Name, UID string
}

// String returns the pod's namespace/name.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Terminating reports whether the pod's termination was requested, by any client.
func (p Pod) Terminating() bool { return !p.Deleted.IsZero() }
