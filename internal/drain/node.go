package drain

import "time"

// Node is the node to drain.
type Node struct {
	Name        string
	UID         string // of this object, which a later node of the same name does not have
	InstanceID  string
	Unreachable bool      // its kubelet does not report: nothing stops its pods. A drain believes it only after a while
	Gone        bool      // its instance is terminated, or about to be: the same applies
	Cordoned    time.Time // when it was closed; zero: it is open
	TaintedOnly bool      // it is closed by a taint, and the drain cordons it
}
