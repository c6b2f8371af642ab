package awstest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// maxFilterValues is how many values the filters of one request may have in all. EC2 answers FilterLimitExceeded to more.
const maxFilterValues = 200

var ec2Actions = map[string]action{
	"DescribeInstances":            describeInstances,
	"DescribeInstanceStatus":       describeInstanceStatus,
	"DescribeSpotInstanceRequests": describeSpotRequests,
	"DescribeSecurityGroups":       describeSecurityGroups,
	"DescribeSubnets":              describeSubnets,
}

// ec2State is an instance state of EC2, with its code.
type ec2State struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

var (
	ec2Running      = ec2State{16, "running"}
	ec2ShuttingDown = ec2State{32, "shutting-down"}
	ec2Terminated   = ec2State{48, "terminated"}
	ec2Stopping     = ec2State{64, "stopping"}
	ec2Stopped      = ec2State{80, "stopped"}
)

type ec2InstanceXML struct {
	InstanceID     string   `xml:"instanceId"`
	PrivateDNSName string   `xml:"privateDnsName"`
	PrivateIP      string   `xml:"privateIpAddress,omitempty"`
	LaunchTime     string   `xml:"launchTime"`
	Zone           string   `xml:"placement>availabilityZone"`
	State          ec2State `xml:"instanceState"`
	Lifecycle      string   `xml:"instanceLifecycle,omitempty"`
	StateReason    string   `xml:"stateReason>code,omitempty"`

	// The parts of its network interface.
	Groups []interfaceGroupXML `xml:"networkInterfaceSet>item>groupSet>item"`
	IPv6   []ipv6AddressXML    `xml:"networkInterfaceSet>item>ipv6AddressesSet>item"`
}

type interfaceGroupXML struct {
	ID string `xml:"groupId"`
}

type ipv6AddressXML struct {
	Address string `xml:"ipv6Address"`
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
		filtered = append(filtered, members(r.params, fmt.Sprintf("Filter.%d.Value", n))...)
	}
	if len(filtered) > maxFilterValues {
		return nil, nil, refused(http.StatusBadRequest, "FilterLimitExceeded",
			fmt.Sprintf("The maximum number of filter values specified on a single call is %d", maxFilterValues))
	}
	return named, filtered, nil
}

func fits(ids []string, id string) bool { return len(ids) == 0 || slices.Contains(ids, id) }

// describeEC2 describes an instance as EC2 does: a terminated one remains for a while, without its name and address.
func (a *account) describeEC2(i *instance) ec2InstanceXML {
	x := ec2InstanceXML{
		InstanceID: i.ID, PrivateDNSName: i.PrivateDNS, PrivateIP: i.PrivateIP, Zone: i.Zone, State: ec2Running,
		LaunchTime: i.LaunchedAt.UTC().Format(eventTime),
	}
	for _, id := range i.SecurityGroups {
		x.Groups = append(x.Groups, interfaceGroupXML{id})
	}
	for _, address := range i.IPv6 {
		x.IPv6 = append(x.IPv6, ipv6AddressXML{address})
	}
	if i.Spot {
		x.Lifecycle = "spot"
	}
	if x.State = a.ec2StateOf(i); x.State == ec2Terminated {
		x.PrivateDNSName, x.PrivateIP, x.IPv6 = "", "", nil
	}
	if x.State != ec2Running {
		x.StateReason = cmp.Or(i.stopReason, "Client.UserInitiatedShutdown") // Auto Scaling is a user of the API too
	}
	return x
}

// ec2StateOf returns the state that follows from Auto Scaling's, or the one that a test has set.
func (a *account) ec2StateOf(i *instance) ec2State {
	now := time.Now()
	switch state := a.instance(i.ID).stateAt(now); {
	case state == stateGone:
		return ec2Terminated
	case i.stopped != nil:
		return *i.stopped
	case state == stateWarmedPendingProceed:
		return ec2Stopping
	case state == stateWarmedStopped:
		return ec2Stopped
	case i.isShuttingDown(now):
		return ec2ShuttingDown
	}
	return ec2Running
}
