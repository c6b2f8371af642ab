package termination

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"quiesce/internal/drain"
)

// searchNodes finds the nodes that claim the instance. A node may have the instance's name and address, and claim another instance. Then EC2 is
// asked about that other instance, and the node is ours only if it is gone: two VPCs may have the same addresses, and so the same names.
func (h *Handler) searchNodes(ctx context.Context, cluster Kubernetes, instanceID string, known EC2Instance) (FoundNodes, error) {
	found, err := cluster.FindNodes(ctx, instanceID, known)
	if err != nil {
		return found, err
	}
	var others []string
	for _, n := range found.Nodes {
		if n.InstanceID != instanceID && isInstanceID(n.InstanceID) {
			others = append(others, n.InstanceID)
		}
	}
	if len(others) == 0 {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	instances, err := h.Groups.EC2Instances(ctx, others...)
	if err != nil {
		return FoundNodes{}, fmt.Errorf("ask EC2 about %s, the instance that the node of the name of %s claims: %w", strings.Join(others, ", "), instanceID, err)
	}
	found.Nodes = slices.DeleteFunc(found.Nodes, func(n drain.Node) bool {
		other, exists := instances[n.InstanceID]
		if exists && !other.Terminated {
			found.Ambiguity = fmt.Sprintf("node %s has the name and the address of %s, but is that of %s, which is not terminated", n.Name, instanceID, n.InstanceID)
			return true
		}
		return false
	})
	return found, nil
}

// The length of what follows "i-" in the IDs of instances
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html).
const shortestID, longestID = 8, 17

// isInstanceID reports whether the text may be the ID of an instance. EC2 takes others for patterns.
func isInstanceID(text string) bool {
	digits, is := strings.CutPrefix(text, "i-")
	return is && len(digits) >= shortestID && len(digits) <= longestID && strings.Trim(digits, "0123456789abcdef") == ""
}
