package awstest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

var ec2Actions = map[string]action{"DescribeInstances": describeInstances}

// ec2State is an instance state of EC2, with its code.
type ec2State struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

var (
	ec2Running      = ec2State{16, "running"}
	ec2ShuttingDown = ec2State{32, "shutting-down"}
	ec2Terminated   = ec2State{48, "terminated"}
)

type ec2InstanceXML struct {
	InstanceID     string   `xml:"instanceId"`
	PrivateDNSName string   `xml:"privateDnsName"`
	Zone           string   `xml:"placement>availabilityZone"`
	State          ec2State `xml:"instanceState"`
	Lifecycle      string   `xml:"instanceLifecycle,omitempty"`
}

type ec2ReservationXML struct {
	Instances []ec2InstanceXML `xml:"instancesSet>item"`
}

func describeInstances(a *account, r request) (any, *apiError) {
	named, filtered, failure := instanceIDs(r)
	if failure != nil {
		return nil, failure
	}
	for _, id := range named {
		if a.instances[id] == nil {
			return nil, refused(http.StatusBadRequest, "InvalidInstanceID.NotFound", fmt.Sprintf("The instance ID '%s' does not exist", id))
		}
	}
	var out struct {
		Reservations []ec2ReservationXML `xml:"reservationSet>item"`
	}
	for _, g := range a.groups {
		for _, i := range g.instances {
			if fits(named, i.ID) && fits(filtered, i.ID) {
				out.Reservations = append(out.Reservations, ec2ReservationXML{[]ec2InstanceXML{a.describeEC2(i)}})
			}
		}
	}
	return out, nil
}

// instanceIDs returns the named instances (which must exist) and those of the only supported filter (which need not exist).
func instanceIDs(r request) (named, filtered []string, failure *apiError) {
	named = members(r.params, "InstanceId")
	for n := 1; r.params.Has(fmt.Sprintf("Filter.%d.Name", n)); n++ {
		if name := r.params.Get(fmt.Sprintf("Filter.%d.Name", n)); name != "instance-id" {
			return nil, nil, refused(http.StatusBadRequest, "InvalidParameterValue", fmt.Sprintf("The filter '%s' is invalid", name))
		}
		filtered = members(r.params, fmt.Sprintf("Filter.%d.Value", n))
	}
	return named, filtered, nil
}

func fits(ids []string, id string) bool { return len(ids) == 0 || slices.Contains(ids, id) }

// describeEC2 describes an instance as EC2 does: a terminated one remains for a while, without its name.
func (a *account) describeEC2(i *instance) ec2InstanceXML {
	x := ec2InstanceXML{InstanceID: i.ID, PrivateDNSName: i.PrivateDNS, Zone: i.Zone, State: ec2Running}
	if i.Spot {
		x.Lifecycle = "spot"
	}
	switch state := a.instance(i.ID).stateAt(time.Now()); {
	case state == stateGone:
		x.State, x.PrivateDNSName = ec2Terminated, ""
	case strings.HasSuffix(state, ":Proceed"):
		x.State = ec2ShuttingDown
	}
	return x
}
