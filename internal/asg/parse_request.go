package asg

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"

	"quiesce/internal/termination"
)

// nodeName is the form of a node name, an RFC 1123 subdomain:
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names/. The name becomes part of a URL. The pattern is
// compiled on first use: the counted repetition makes it expensive, and most processes never need it.
var nodeName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
})

// parseRequest reads a manual request. It rejects unknown keys: a mistyped key must not change what a request does.
func parseRequest(data []byte, object object) termination.Record {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains([]string{"action", "instanceId", "node"}, key) {
			return malformed(fmt.Errorf("%s: unknown key", quoted(key)))
		}
	}
	var request termination.Request
	if err := decode(data, &request); err != nil {
		return malformed(err)
	}
	if err := cmp.Or(checkSubject(request), checkForm(request)); err != nil {
		return malformed(err)
	}
	return termination.Record{Request: &request}
}

// checkSubject checks that the action is known, and that it names its instance or node.
func checkSubject(r termination.Request) error {
	instance, node := r.InstanceID != "", r.Node != ""
	switch r.Action {
	case termination.ActionPlan:
		if instance == node {
			return errors.New("action plan: needs either instanceId or node")
		}
	case termination.ActionDrain:
		if !instance || node {
			return errors.New("action drain: needs instanceId, and nothing else")
		}
	case termination.ActionSweep:
		if instance || node {
			return errors.New("action sweep: takes neither instanceId nor node")
		}
	default:
		return fmt.Errorf("action: must be plan, drain or sweep, not %s", quoted(string(r.Action)))
	}
	return nil
}

func checkForm(r termination.Request) error {
	switch {
	case r.InstanceID != "" && !instanceID.MatchString(r.InstanceID):
		return fmt.Errorf("instanceId: not an instance id: %s", quoted(r.InstanceID))
	case r.Node != "" && !nodeName().MatchString(r.Node):
		return fmt.Errorf("node: not the name of a node: %s", quoted(r.Node))
	}
	return nil
}
