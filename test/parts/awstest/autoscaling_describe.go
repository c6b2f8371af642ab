package awstest

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Page sizes (Auto Scaling API reference): the default, and the limits of MaxRecords.
const (
	defaultRecords   = 50
	maxGroupRecords  = 100
	maxInstanceBatch = 50
)

type groupXML struct {
	AutoScalingGroupName string
	AutoScalingGroupARN  string
	MinSize, MaxSize     int
	DesiredCapacity      int
	CreatedTime          string
	Status               string        `xml:",omitempty"` // only of a group that is being deleted
	Tags                 []tagXML      `xml:"Tags>member"`
	AvailabilityZones    []string      `xml:"AvailabilityZones>member"`
	Instances            []instanceXML `xml:"Instances>member"` // without those of the warm pool
	WarmPool             *warmPoolXML  `xml:"WarmPoolConfiguration,omitempty"`
	WarmPoolSize         *int          `xml:",omitempty"`

	SuspendedProcesses []suspendedXML  `xml:"SuspendedProcesses>member"`
	MaintenancePolicy  *maintenanceXML `xml:"InstanceMaintenancePolicy,omitempty"`
	LifecyclePolicy    *retentionXML   `xml:"InstanceLifecyclePolicy,omitempty"`
}

// tagXML is a tag of a group
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_TagDescription.html).
type tagXML struct {
	ResourceID        string `xml:"ResourceId"`
	ResourceType      string
	Key, Value        string
	PropagateAtLaunch bool
}

type warmPoolXML struct {
	MinSize   int
	PoolState string
}

type instanceXML struct {
	InstanceID           string `xml:"InstanceId"`
	AutoScalingGroupName string `xml:",omitempty"`
	AvailabilityZone     string
	LifecycleState       string
	HealthStatus         string
	ProtectedFromScaleIn bool
}

func describeGroups(a *account, r request) (any, *apiError) {
	if r.params.Has("Filters.member.1.Name") {
		return nil, invalid("Filters are not modeled by awstest")
	}
	names := members(r.params, "AutoScalingGroupNames.member")
	if most := recordsOf(r); len(names) > most {
		return nil, invalid("The number of group names that may be passed in is limited to %d", most)
	}
	wanted := slices.DeleteFunc(slices.Clone(a.groups), func(g *group) bool {
		return len(names) > 0 && !slices.Contains(names, g.name)
	})
	page, next, failure := paged(wanted, r, maxGroupRecords)
	if failure != nil {
		return nil, failure
	}
	out := struct {
		AutoScalingGroups []groupXML `xml:"AutoScalingGroups>member"`
		NextToken         string     `xml:",omitempty"`
	}{NextToken: next}
	for _, g := range page {
		out.AutoScalingGroups = append(out.AutoScalingGroups, a.describeGroup(g, r.params.Get("IncludeInstances") != "false"))
	}
	return out, nil
}

// recordsOf returns how many groups may be named: as many as one response describes.
func recordsOf(r request) int {
	if most, err := strconv.Atoi(r.params.Get("MaxRecords")); err == nil {
		return min(most, maxGroupRecords)
	}
	return defaultRecords
}

func (a *account) describeGroup(g *group, instances bool) groupXML {
	x := groupXML{
		AutoScalingGroupName: g.name, AutoScalingGroupARN: g.arn(), MaxSize: len(g.instances),
		CreatedTime: g.created.UTC().Format(eventTime),
	}
	if g.deleting {
		x.Status = "Delete in progress"
	}
	for _, key := range slices.Sorted(maps.Keys(g.tags)) {
		x.Tags = append(x.Tags, tagXML{ResourceID: g.name, ResourceType: "auto-scaling-group", Key: key, Value: g.tags[key]})
	}
	if g.warmPool {
		size := len(a.warmInstances(g))
		x.WarmPool, x.WarmPoolSize = g.describeWarmPool(), &size
	}
	for _, i := range g.instances {
		seen, there := a.describe(i)
		if !there || isWarm(seen.LifecycleState) {
			continue
		}
		if !isRetained(seen.LifecycleState) {
			x.DesiredCapacity++
		}
		if !slices.Contains(x.AvailabilityZones, i.Zone) {
			x.AvailabilityZones = append(x.AvailabilityZones, i.Zone)
		}
		if instances {
			x.Instances = append(x.Instances, seen)
		}
	}
	if g.desired != nil {
		x.DesiredCapacity = *g.desired
	}
	g.describeSettings(&x)
	return x
}

// describeWarmPool describes the instances that DescribeAutoScalingGroups leaves out. A group without a warm pool has none.
func describeWarmPool(a *account, r request) (any, *apiError) {
	g, failure := a.groupOf(r)
	if failure != nil {
		return nil, failure
	}
	var out struct {
		Instances []instanceXML `xml:"Instances>member"`
		WarmPool  *warmPoolXML  `xml:"WarmPoolConfiguration,omitempty"`
		NextToken string        `xml:",omitempty"`
	}
	if !g.warmPool {
		return out, nil
	}
	out.WarmPool = g.describeWarmPool()
	out.Instances, out.NextToken, failure = paged(a.warmInstances(g), r, maxInstanceBatch)
	return out, failure
}

func (g *group) describeWarmPool() *warmPoolXML { return &warmPoolXML{PoolState: "Stopped"} }

func (a *account) warmInstances(g *group) (all []instanceXML) {
	for _, i := range g.instances {
		if seen, there := a.describe(i); there && isWarm(seen.LifecycleState) {
			all = append(all, seen)
		}
	}
	return all
}

func describeInstancesOfGroups(a *account, r request) (any, *apiError) {
	ids := members(r.params, "InstanceIds.member")
	if len(ids) > maxInstanceBatch {
		return nil, invalid("The number of instance ids that may be passed in is limited to %d", maxInstanceBatch)
	}
	page, next, failure := paged(a.describeAll(ids), r, maxInstanceBatch)
	if failure != nil {
		return nil, failure
	}
	return struct {
		AutoScalingInstances []instanceXML `xml:"AutoScalingInstances>member"`
		NextToken            string        `xml:",omitempty"`
	}{page, next}, nil
}

// describeAll describes the instances with these IDs, or all instances if none are given, those of warm pools included.
func (a *account) describeAll(ids []string) []instanceXML {
	var all []instanceXML
	for _, g := range a.groups {
		for _, i := range g.instances {
			seen, there := a.describe(i)
			if there && (len(ids) == 0 || slices.Contains(ids, i.ID)) {
				seen.AutoScalingGroupName = g.name
				all = append(all, seen)
			}
		}
	}
	return all
}

// describe describes an instance, late by the account's lag.
func (a *account) describe(i *instance) (seen instanceXML, there bool) {
	state := a.instance(i.ID).stateAt(time.Now().Add(-a.lag))
	return instanceXML{
		InstanceID:       i.ID,
		AvailabilityZone: i.Zone,
		LifecycleState:   state,
		HealthStatus:     "Healthy",

		ProtectedFromScaleIn: i.protected,
	}, state != stateGone
}

type hookXML struct {
	AutoScalingGroupName string
	LifecycleHookName    string
	LifecycleTransition  string
	HeartbeatTimeout     int
	GlobalTimeout        int
	DefaultResult        string
	NotificationMetadata string `xml:",omitempty"`
}

func describeHooks(a *account, r request) (any, *apiError) {
	g, failure := a.groupOf(r)
	if failure != nil {
		return nil, failure
	}
	names := members(r.params, "LifecycleHookNames.member")
	var out struct {
		LifecycleHooks []hookXML `xml:"LifecycleHooks>member"`
	}
	for _, h := range g.hooks {
		if len(names) == 0 || slices.Contains(names, h.Name) {
			out.LifecycleHooks = append(out.LifecycleHooks, hookXML{
				g.name, h.Name, h.Transition, seconds(h.HeartbeatTimeout), seconds(h.GlobalTimeout), h.DefaultResult, h.Metadata,
			})
		}
	}
	return out, nil
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// paged returns one page of a list. The token of the next page is its offset.
func paged[T any](all []T, r request, most int) (page []T, next string, failure *apiError) {
	return pagedBy(all, r, defaultRecords, most)
}

func pagedBy[T any](all []T, r request, usual, most int) (page []T, next string, failure *apiError) {
	size, from := usual, 0
	for name, value := range map[string]*int{"MaxRecords": &size, "NextToken": &from} {
		if !r.params.Has(name) {
			continue
		}
		n, err := strconv.Atoi(r.params.Get(name))
		if err != nil || n < 0 {
			return nil, "", refused(http.StatusBadRequest, "InvalidNextToken", "The "+name+" value is not valid.")
		}
		*value = n
	}
	from = min(from, len(all))
	to := min(from+min(size, most), len(all))
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return all[from:to], next, nil
}
