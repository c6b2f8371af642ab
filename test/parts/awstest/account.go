package awstest

import (
	"fmt"
	"slices"
	"time"
)

// defaultProceed is how long an instance takes to terminate once its hooks are done: long enough to be seen, short enough to wait
// for.
const defaultProceed = 100 * time.Millisecond

// account is everything that exists in AWS, without the network. The caller holds the server's lock.
type account struct {
	groups    []*group // in the order of creation, which is the order of pages
	instances map[string]*instance
	clusters  map[string]cluster
	secrets   []*secret
	queues    []*queue
	buckets   map[string]map[string][]byte // objects by key
	functions map[string]Invoker
	variables map[string]map[string]string // environments of functions, by name
	reserved  map[string]int               // reserved concurrency of functions that have some, by name
	mappings  map[string]string            // states of event source mappings, by the function that they invoke, with its alias
	topics    map[string][]Subscription    // by ARN
	topicKeys map[string]string            // that encrypt topics, by the topic's ARN
	logs      map[string][]logEvent        // by log group
	networks  map[string]Network           // of functions, by name
	subnets   map[string]string            // CIDRs by ID
	events    string                       // URL of the queue that gets the events of requested terminations; may be empty
	lag       time.Duration                // age of descriptions
	proceed   time.Duration

	securityGroups map[string]SecurityGroup // by ID
}

type group struct {
	name, uuid string
	created    time.Time
	tags       map[string]string
	deleting   bool
	hooks      []Hook
	instances  []*instance
	activities []activity // in order
	retains    bool       // keeps instances whose termination was abandoned
	warmPool   bool
	desired    *int // nil: as many instances as there are
	settings   GroupSettings
	events     []Event // of terminations that calls have begun
}

func newAccount() *account {
	return &account{
		topics:    map[string][]Subscription{},
		topicKeys: map[string]string{},
		instances: map[string]*instance{}, clusters: map[string]cluster{}, buckets: map[string]map[string][]byte{},
		functions: map[string]Invoker{}, variables: map[string]map[string]string{}, reserved: map[string]int{}, mappings: map[string]string{}, logs: map[string][]logEvent{},
		networks: map[string]Network{}, subnets: map[string]string{}, securityGroups: map[string]SecurityGroup{},
		proceed: defaultProceed,
	}
}

// AddGroup makes an Auto Scaling group with its lifecycle hooks. It is created now. Adding a name again replaces the hooks.
func (s *Server) AddGroup(name string, hooks ...Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range hooks {
		hooks[i] = hooks[i].withDefaults()
	}
	if g := s.account.group(name); g != nil {
		g.hooks = hooks
		return
	}
	s.account.groups = append(s.account.groups, &group{name: name, uuid: newUUID(), created: time.Now(), hooks: hooks})
}

// TagGroup gives a group these tags, and no others.
func (s *Server) TagGroup(name string, tags map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.group(name).tags = tags
}

// BackdateGroup makes a group older by d, so that a test need not wait.
func (s *Server) BackdateGroup(name string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.account.group(name)
	g.created = g.created.Add(-d)
}

// DeleteGroup begins the deletion of a group. Until RemoveGroup its description says so.
func (s *Server) DeleteGroup(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.group(name).deleting = true
}

// RemoveGroup makes a group unknown. It has no instances any more.
func (s *Server) RemoveGroup(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.groups = slices.DeleteFunc(s.account.groups, func(g *group) bool { return g.name == name })
}

// HooksOf returns the lifecycle hooks of a group, in the order of their creation.
func (s *Server) HooksOf(name string) []Hook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.account.group(name).hooks)
}

// RetainAbandoned gives a group the policy that keeps an instance whose termination hook was abandoned, by a call or by default
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/configure-instance-retention.html).
func (s *Server) RetainAbandoned(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.group(name).retains = true
}

// AddWarmPool gives a group a warm pool (https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-warm-pools.html).
// Its instances are those in a state that begins with "Warmed:".
func (s *Server) AddWarmPool(group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.group(group).warmPool = true
}

// AddInstance adds an instance in service to an existing group. It is launched now, unless LaunchedAt says when.
func (s *Server) AddInstance(group string, i Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.account.group(group)
	if g == nil {
		panic(fmt.Sprintf("awstest: no group %q for instance %s", group, i.ID))
	}
	if i.LaunchedAt.IsZero() {
		i.LaunchedAt = time.Now()
	}
	added := &instance{Instance: i, group: g, spotStatus: spotFulfilled, spotUpdated: time.Now(), history: []change{{state: stateInService}}}
	g.instances = append(g.instances, added)
	s.account.instances[i.ID] = added
}

// MoveInstance moves an instance in service from its group to another existing group. It is a new member there, without history.
func (s *Server) MoveInstance(group, instanceID string) {
	s.with(instanceID, func(i *instance) {
		i.group.instances = slices.DeleteFunc(i.group.instances, func(other *instance) bool { return other == i })
	})
	s.mu.Lock()
	moved := s.account.instances[instanceID].Instance
	s.mu.Unlock()
	s.AddInstance(group, moved)
}

// SetDescriptionLag makes Auto Scaling describe instances as they were that long ago. Actions see the present.
func (s *Server) SetDescriptionLag(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.lag = d
}

// SetTerminationDelay sets how long an instance remains after its hooks are done; the default is 100 ms.
func (s *Server) SetTerminationDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.proceed = d
}

func (a *account) group(name string) *group {
	if i := slices.IndexFunc(a.groups, func(g *group) bool { return g.name == name }); i >= 0 {
		return a.groups[i]
	}
	return nil
}

// instance returns the instance as it is now, with all expired timers applied; nil if it never existed.
func (a *account) instance(id string) *instance {
	i := a.instances[id]
	if i != nil {
		i.advance(time.Now(), a.proceed)
	}
	return i
}

func (g *group) arn() string {
	return fmt.Sprintf("arn:aws:autoscaling:%s:%s:autoScalingGroup:%s:autoScalingGroupName/%s", Region, Account, g.uuid, g.name)
}

func (g *group) hook(name string) *Hook {
	if i := slices.IndexFunc(g.hooks, func(h Hook) bool { return h.Name == name }); i >= 0 {
		return &g.hooks[i]
	}
	return nil
}
