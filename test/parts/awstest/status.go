package awstest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// ScheduledEvent is a change that EC2 has scheduled for an instance
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceStatusEvent.html).
type ScheduledEvent struct {
	Code        string // such as instance-retirement
	Description string // begins with [Completed] or [Canceled] for a week after it is over
	NotBefore   time.Time
}

// Schedule schedules a change of an instance.
func (s *Server) Schedule(instanceID string, e ScheduledEvent) {
	s.with(instanceID, func(i *instance) { i.scheduled = append(i.scheduled, e) })
}

// StopInEC2 stops an instance behind the back of Auto Scaling, whose state stays as it is until its next health check. The state is
// shutting-down, stopping or stopped, and the reason a code of EC2
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html).
func (s *Server) StopInEC2(instanceID, state, reason string) {
	for _, known := range []ec2State{ec2ShuttingDown, ec2Stopping, ec2Stopped} {
		if known.Name == state {
			s.with(instanceID, func(i *instance) { i.stopped, i.stopReason = &known, reason })
		}
	}
}

type statusXML struct {
	InstanceID string     `xml:"instanceId"`
	Zone       string     `xml:"availabilityZone"`
	State      ec2State   `xml:"instanceState"`
	Events     []eventXML `xml:"eventsSet>item"`
}

type eventXML struct {
	Code        string `xml:"code"`
	Description string `xml:"description"`
	NotBefore   string `xml:"notBefore"`
}

// The limits of MaxResults, and how many instances are described without it
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html).
const minStatuses, maxStatuses = 5, 1000

// describeInstanceStatus describes running instances only, as EC2 does unless it is asked for all. The only filter is that of the code of
// a scheduled event.
func describeInstanceStatus(a *account, r request) (any, *apiError) {
	if r.params.Has("InstanceId.1") || r.params.Has("IncludeAllInstances") {
		return nil, refused(http.StatusBadRequest, "InvalidParameterValue", "IDs and IncludeAllInstances are not modeled by awstest")
	}
	var codes []string
	for n := 1; r.params.Has(fmt.Sprintf("Filter.%d.Name", n)); n++ {
		if name := r.params.Get(fmt.Sprintf("Filter.%d.Name", n)); name != "event.code" {
			return nil, refused(http.StatusBadRequest, "InvalidParameterValue", fmt.Sprintf("The filter '%s' is invalid", name))
		}
		codes = append(codes, members(r.params, fmt.Sprintf("Filter.%d.Value", n))...)
	}
	var all []statusXML
	for _, g := range a.groups {
		for _, i := range g.instances {
			if x := a.describeStatus(i); x.State == ec2Running && (len(codes) == 0 || x.hasCode(codes)) {
				all = append(all, x)
			}
		}
	}
	size, from := maxStatuses, 0
	if r.params.Has("MaxResults") {
		size, _ = strconv.Atoi(r.params.Get("MaxResults"))
	}
	if size < minStatuses || size > maxStatuses {
		return nil, refused(http.StatusBadRequest, "InvalidParameterValue", "Value for parameter MaxResults is invalid. Expecting 5 to 1000.")
	}
	from, _ = strconv.Atoi(r.params.Get("NextToken"))
	from = min(max(from, 0), len(all))
	out := struct {
		Statuses  []statusXML `xml:"instanceStatusSet>item"`
		NextToken string      `xml:"nextToken,omitempty"`
	}{Statuses: all[from:min(from+size, len(all))]}
	if from+size < len(all) {
		out.NextToken = strconv.Itoa(from + size)
	}
	return out, nil
}

func (a *account) describeStatus(i *instance) statusXML {
	x := statusXML{InstanceID: i.ID, Zone: i.Zone, State: a.ec2StateOf(i)}
	for _, e := range i.scheduled {
		x.Events = append(x.Events, eventXML{e.Code, e.Description, e.NotBefore.UTC().Format(eventTime)})
	}
	return x
}

func (x statusXML) hasCode(codes []string) bool {
	return slices.ContainsFunc(x.Events, func(e eventXML) bool { return slices.Contains(codes, e.Code) })
}
