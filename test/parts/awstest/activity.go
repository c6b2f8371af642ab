package awstest

import (
	"slices"
	"strings"
	"time"
)

// maxActivities is how many activities one request describes, at most and by default.
const maxActivities = 100

// activity is the scaling activity that terminates an instance.
type activity struct {
	id       string
	instance *instance
	began    time.Time
}

type activityXML struct {
	ActivityID           string `xml:"ActivityId"`
	AutoScalingGroupName string
	Cause                string
	Description          string
	StartTime            time.Time
	EndTime              *time.Time `xml:",omitempty"`
	StatusCode           string
}

// describeActivities returns activities in progress first, then the latest (DescribeScalingActivities, Auto Scaling API
// reference).
func describeActivities(a *account, r request) (any, *apiError) {
	g, failure := a.groupOf(r)
	if failure != nil {
		return nil, failure
	}
	if r.params.Has("Filters.member.1.Name") || r.params.Has("ActivityIds.member.1") {
		return nil, invalid("Filters and ids are not modeled by awstest")
	}
	var underWay, ended []activityXML
	for _, done := range slices.Backward(g.activities) {
		if x := a.describeActivity(done); x.EndTime == nil {
			underWay = append(underWay, x)
		} else {
			ended = append(ended, x)
		}
	}
	page, next, failure := pagedBy(append(underWay, ended...), r, maxActivities, maxActivities)
	if failure != nil {
		return nil, failure
	}
	return struct {
		Activities []activityXML `xml:"Activities>member"`
		NextToken  string        `xml:",omitempty"`
	}{page, next}, nil
}

func (a *account) describeActivity(done activity) activityXML {
	x := activityXML{
		ActivityID: done.id, AutoScalingGroupName: done.instance.group.name, StartTime: done.began.UTC(),
		Cause:       "At " + done.began.UTC().Format(time.RFC3339) + " an instance was taken out of service in response to a user request.",
		Description: "Terminating EC2 instance: " + done.instance.ID, StatusCode: "MidLifecycleAction",
	}
	if end, code, over := a.instance(done.instance.ID).ended(done.began); over {
		x.EndTime, x.StatusCode = &end, code
	}
	return x
}

// ended returns when and how the termination that began then ended: the instance terminated, is in the warm
// pool, was retained, or returned to service.
func (i *instance) ended(began time.Time) (end time.Time, code string, over bool) {
	now := time.Now()
	for _, c := range i.history {
		if !c.at.After(began) || c.at.After(now) || waits(c.state) || strings.HasSuffix(c.state, ":Proceed") {
			continue
		}
		if c.state == stateGone || c.state == stateWarmedStopped {
			return c.at.UTC(), "Successful", true
		}
		return c.at.UTC(), "Cancelled", true
	}
	return time.Time{}, "", false
}
