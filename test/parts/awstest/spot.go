package awstest

import "time"

// Status codes of a Spot request (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html).
const (
	spotFulfilled = "fulfilled"
	// SpotMarked is the status from the interruption warning until the instance ends.
	SpotMarked = "marked-for-termination"
)

// SetSpotStatus sets the status code of a Spot instance's request. It is "fulfilled" until then.
func (s *Server) SetSpotStatus(instanceID, code string) {
	s.with(instanceID, func(i *instance) { i.spotStatus, i.spotUpdated = code, time.Now() })
}

type spotRequestXML struct {
	RequestID  string `xml:"spotInstanceRequestId"`
	InstanceID string `xml:"instanceId"`
	State      string `xml:"state"`
	Code       string `xml:"status>code"`
	Updated    string `xml:"status>updateTime"`
}

// describeSpotRequests returns the requests of the instances that the filter names. Other instances than Spot instances have none.
func describeSpotRequests(a *account, r request) (any, *apiError) {
	_, filtered, failure := instanceIDs(r)
	if failure != nil {
		return nil, failure
	}
	var out struct {
		Requests []spotRequestXML `xml:"spotInstanceRequestSet>item"`
	}
	for _, g := range a.groups {
		for _, i := range g.instances {
			if i.Spot && fits(filtered, i.ID) {
				out.Requests = append(out.Requests, spotRequestXML{"sir-" + i.ID[2:], i.ID, "active", i.spotStatus, i.spotUpdated.UTC().Format(eventTime)})
			}
		}
	}
	return out, nil
}
