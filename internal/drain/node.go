package drain

import "time"

// Node is the node to be drained.
type Node struct {
	Name        string
	UID         string // of this object, which a later node of the same name does not have
	InstanceID  string
	Unreachable bool      // nobody hears from its kubelet: pods can be asked to leave, but nobody there stops them
	Gone        bool      // its instance is, or is about to be: likewise
	Cordoned    time.Time // when it was closed to new pods; zero: it is not
}
