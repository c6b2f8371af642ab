package asg

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
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
		if !slices.Contains([]string{"action", "instanceId", "node", "cluster", "candidate", "rehearse"}, key) {
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
	case termination.ActionSweep, termination.ActionCheck, termination.ActionResume:
		if instance || node {
			return fmt.Errorf("action %s: takes neither instanceId nor node", r.Action)
		}
	case termination.ActionSwitchover:
		if r.Cluster == "" || instance || node {
			return errors.New("action switchover: needs cluster, and neither instanceId nor node")
		}
	default:
		return fmt.Errorf("action: must be plan, drain, sweep, check, switchover or resume, not %s", quoted(string(r.Action)))
	}
	if r.Action != termination.ActionSwitchover && (r.Cluster != "" || r.Candidate != "" || r.Rehearse) {
		return fmt.Errorf("action %s: takes neither cluster nor candidate nor rehearse", r.Action)
	}
	return nil
}

func checkForm(r termination.Request) error {
	switch {
	case r.InstanceID != "" && !instanceID.MatchString(r.InstanceID):
		return fmt.Errorf("instanceId: not an instance id: %s", quoted(r.InstanceID))
	case r.Node != "" && !nodeName().MatchString(r.Node):
		return fmt.Errorf("node: not the name of a node: %s", quoted(r.Node))
	case r.Cluster != "" && !isNamespaced(r.Cluster):
		return fmt.Errorf("cluster: not a namespace and the name of a cluster, as namespace/name: %s", quoted(r.Cluster))
	case r.Candidate != "" && !nodeName().MatchString(r.Candidate):
		return fmt.Errorf("candidate: not the name of a member: %s", quoted(r.Candidate))
	}
	return nil
}

// isNamespaced reports whether the text is namespace/name. Namespaces are RFC 1123 labels, and names subdomains.
func isNamespaced(text string) bool {
	namespace, name, two := strings.Cut(text, "/")
	return two && nodeName().MatchString(namespace) && !strings.Contains(namespace, ".") && nodeName().MatchString(name)
}
