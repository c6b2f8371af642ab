package awstest

import (
	"net/http"
	"time"
)

// SendEventsTo puts the events of terminations that are requested by API into a queue, as a rule of EventBridge does. An empty
// URL ends that.
func (s *Server) SendEventsTo(queueURL string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.events = queueURL
}

// terminateInstance terminates an instance of a group (TerminateInstanceInAutoScalingGroup, Auto Scaling API reference). AWS also
// launches a replacement if the capacity stays as it is. Here that is for the test to do. Scale-in protection does not matter.
func terminateInstance(a *account, r request) (any, *apiError) {
	id := r.params.Get("InstanceId")
	switch i := a.instance(id); {
	case !r.params.Has("ShouldDecrementDesiredCapacity"):
		return nil, invalid("1 validation error detected: Value null at 'shouldDecrementDesiredCapacity' failed to satisfy constraint: " +
			"Member must not be null")
	case i == nil || i.stateAt(time.Now()) == stateGone:
		return nil, invalid("Instance Id not found - No managed instance found for instance ID: %s", id)
	case isRetained(i.stateAt(time.Now())) && r.params.Get("ShouldDecrementDesiredCapacity") == "true":
		return nil, invalid("The desired capacity cannot be decremented for a retained instance: it does not count")
	case isWarm(i.stateAt(time.Now())) && !isRetained(i.stateAt(time.Now())):
		return nil, refused(http.StatusBadRequest, "ValidationError", "An instance in a warm pool cannot be terminated by this action")
	}
	g := a.instance(id).group
	if g.desired == nil {
		g.desired = new(a.capacity(g))
	}
	if r.params.Get("ShouldDecrementDesiredCapacity") == "true" {
		*g.desired--
	}
	for _, event := range a.leave(id, stateWait) {
		if a.events != "" {
			a.mustQueue(a.events).put(string(event.Body), nil)
		}
		g.events = append(g.events, event)
	}
	return struct{ Activity activityXML }{a.describeActivity(g.activities[len(g.activities)-1])}, nil
}
