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
	lag       time.Duration                // age of descriptions
	proceed   time.Duration
}

type group struct {
	name, uuid string
	hooks      []Hook
	instances  []*instance
	activities []activity // in order
	retains    bool       // keeps instances whose termination was abandoned
}

func newAccount() *account {
	return &account{
		instances: map[string]*instance{}, clusters: map[string]cluster{}, buckets: map[string]map[string][]byte{},
		proceed: defaultProceed,
	}
}

// AddGroup makes an Auto Scaling group with its lifecycle hooks. Adding a name again replaces the hooks.
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
	s.account.groups = append(s.account.groups, &group{name: name, uuid: newUUID(), hooks: hooks})
}

// RetainAbandoned gives a group the policy that keeps an instance whose termination hook was abandoned, by a call or by default
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/configure-instance-retention.html).
func (s *Server) RetainAbandoned(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.group(name).retains = true
}

// AddInstance adds an instance in service to an existing group.
func (s *Server) AddInstance(group string, i Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.account.group(group)
	if g == nil {
		panic(fmt.Sprintf("awstest: no group %q for instance %s", group, i.ID))
	}
	added := &instance{Instance: i, group: g, history: []change{{state: stateInService}}}
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
