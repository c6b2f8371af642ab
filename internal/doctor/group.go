package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/termination"
)

var groupChecks = []check{
	{"group-hook", (*view).unhookedGroups},
	{"group-other-hooks", (*view).otherHooks},
	{"group-hook-timeout", (*view).hookTimeouts},
	{"group-hook-result", (*view).hookResults},
	{"group-suspended", (*view).suspendedProcesses},
	{"group-maintenance", (*view).maintenancePolicies},
	{"group-autoscaler", (*view).autoscaledGroups},
	{"group-config", (*view).configuredGroups},
}

// Belongs reports whether a group is the cluster's: a node is one of its instances, or it has a tag of the cluster.
func Belongs(g termination.Group, instances map[string]bool, cluster string) bool {
	if slices.ContainsFunc(g.Instances, func(i termination.Instance) bool { return instances[i.ID] }) {
		return true
	}
	if cluster == "" {
		return false
	}
	_, owned := g.Tags["kubernetes.io/cluster/"+cluster]
	_, known := g.Tags["k8s.io/cluster/"+cluster]
	return owned || known || g.Tags["eks:cluster-name"] == cluster
}

// ours returns the hook of quiesce; nil: the group has none.
func (v *view) ours(g asg.Settings) *asg.NamedHook {
	for i, h := range g.Hooks {
		if h.Name == v.Config.Lifecycle.Hook && !h.Launching {
			return &g.Hooks[i]
		}
	}
	return nil
}

// others returns the other hooks that hold terminations.
func (v *view) others(g asg.Settings) (names []string) {
	for _, h := range g.Hooks {
		if h.Name != v.Config.Lifecycle.Hook && !h.Launching {
			names = append(names, h.Name)
		}
	}
	return names
}

// managedHook is the hook of EKS managed node groups. EKS answers it after 15 minutes at most, whatever PDBs say
// (https://docs.aws.amazon.com/eks/latest/userguide/managed-node-update-behavior.html).
const managedHook = "Terminate-LC-Hook"

func isRebalanced(g asg.Settings) bool {
	return len(g.Zones) > 1 && !slices.Contains(g.Suspended, "AZRebalance")
}

// putHook returns the command that puts our hook, or none if no configuration was given: nobody may answer a hook of another name, and one
// without the stack's name is never removed.
func (v *view) putHook(group string) string {
	if !v.Configured {
		return ""
	}
	return v.Config.PutHookCommand(Quote(group))
}

func (v *view) unhookedGroups() (found []Finding) {
	for _, g := range v.Groups {
		if v.ours(g) != nil {
			continue
		}
		f := Finding{
			Where: "group " + g.Name, Severity: Warning, Fix: "deploy quiesce for this group: its stack makes the hook (infra/README.md)",
			Cost: "scale-in, instance refresh and replacements terminate nodes without a cordon or an eviction",
		}
		others := v.others(g)
		unanswered := slices.DeleteFunc(slices.Clone(others), func(name string) bool { return name == managedHook })
		if v.Function != nil { // without a function, a hook would hold each instance for its whole timeout
			f.Fix, f.Command = "deploy quiesce for this group (infra/README.md), or add its hook", v.putHook(g.Name)
			if f.Command == "" {
				f.Fix += ": the stack's output HooksByHand has the command"
			}
		}
		switch {
		case len(unanswered) > 0:
			f.What = "has no hook of quiesce, and it is not known whether anyone answers " + named(unanswered)
			f.Cost = "a hook that nobody answers holds each instance for its whole timeout, and then lets it go undrained"
		case len(others) > 0:
			f.What = "only EKS answers its hook, for 15 minutes at most and whatever PDBs say"
			f.Cost = "after a rebalance, pods that are still there are killed"
		case isRebalanced(g):
			f.Severity = Critical
			f.What = fmt.Sprintf("spans %s, may rebalance, and has no lifecycle hook", named(g.Zones))
			f.Cost = "AZRebalance terminates nodes without a cordon, an eviction or SIGTERM; clients keep half-open connections"
		default:
			f.What = "has no lifecycle hook"
		}
		found = append(found, f)
	}
	return found
}

func (v *view) otherHooks() (found []Finding) {
	for _, g := range v.Groups {
		if others := v.others(g); v.ours(g) != nil && len(others) > 0 {
			found = append(found, Finding{
				Where: "group " + g.Name, Severity: Info, What: named(others) + " also holds its terminations",
				Cost:    "an instance goes when all hooks are done, and ABANDON of one ends the others",
				Fix:     "remove hooks that nobody answers; two tools that drain one node disturb each other",
				Command: "aws autoscaling describe-lifecycle-hooks --auto-scaling-group-name " + Quote(g.Name),
			})
		}
	}
	return found
}

func (v *view) hookTimeouts() (found []Finding) {
	wanted := v.Config.HeartbeatTimeout()
	for _, g := range v.Groups {
		h := v.ours(g)
		if h == nil {
			continue
		}
		f := Finding{Where: "group " + g.Name, Severity: Warning, Fix: "give the hook the timeout of quiesce's own hooks", Command: v.putHook(g.Name)}
		limit := cmp.Or(h.GlobalTimeout, min(config.MaxHeartbeats*h.HeartbeatTimeout, config.MaxWait))
		switch {
		case limit < v.Config.Drain.MaxDuration:
			f.Severity = Critical
			f.What = fmt.Sprintf("hook %s ends after %s, and drain.maxDuration is %s", h.Name, short(limit), short(v.Config.Drain.MaxDuration))
			f.Cost = "longer drains end early, with pods on the node"
		case h.HeartbeatTimeout < wanted:
			f.What = fmt.Sprintf("hook %s waits only %s for a heartbeat", h.Name, short(h.HeartbeatTimeout))
			f.Cost = "an outage of that length lets a node go undrained"
		default:
			continue
		}
		found = append(found, f)
	}
	return found
}

// hookResults finds default results that lose. Both results let an instance go, but ABANDON also ends the other hooks, and is the only one
// after which a group can keep the instance
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/configure-instance-retention.html).
func (v *view) hookResults() (found []Finding) {
	for _, g := range v.Groups {
		ours := v.ours(g)
		if ours == nil {
			continue
		}
		add := func(severity Severity, what, cost, fix, command string) {
			found = append(found, Finding{Where: "group " + g.Name, Severity: severity, What: what, Cost: cost, Fix: fix, Command: command})
		}
		for _, h := range g.Hooks {
			if h.Name != ours.Name && !h.Launching && h.DefaultResult == termination.Abandon && !g.Retains {
				add(Warning, "hook "+h.Name+" has the default result ABANDON", "when it times out, it ends the drain of quiesce too",
					"set its default result to CONTINUE", fmt.Sprintf("aws autoscaling put-lifecycle-hook --auto-scaling-group-name %s "+
						"--lifecycle-hook-name %s --default-result CONTINUE", Quote(g.Name), Quote(h.Name)))
			}
		}
		switch {
		case ours.DefaultResult == termination.Abandon && !g.Retains:
			command := ""
			if v.Config.Lifecycle.OnFailure != config.Abandon { // else the command would put the same result
				command = v.putHook(g.Name)
			}
			add(Info, "hook "+ours.Name+" has the default result ABANDON, and the group does not retain abandoned instances",
				"an instance whose drain failed goes as with CONTINUE, and other hooks end with it",
				"set lifecycle.onFailure: CONTINUE, or give the group a policy that retains", command)
		case ours.DefaultResult == termination.Continue && g.Retains:
			add(Info, "retains abandoned instances, but hook "+ours.Name+" has the default result CONTINUE",
				"an instance whose drain failed is not retained", "set lifecycle.onFailure: ABANDON, then deploy", "")
		}
	}
	return found
}

// suspended says what a suspended process costs
// (https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-suspend-resume-processes.html).
var suspended = []struct {
	process  string
	severity Severity
	cost     string
}{
	{"Launch", Critical, "nothing replaces a node that goes: its pods wait for room"},
	{"Terminate", Warning, "no instance leaves by itself, and a rebalance grows the group by a tenth"},
	{"HealthCheck", Info, "nodes that are broken are not replaced"},
	{"ReplaceUnhealthy", Info, "nodes that are broken are not replaced"},
}

func (v *view) suspendedProcesses() (found []Finding) {
	for _, g := range v.Groups {
		for _, s := range suspended {
			if slices.Contains(g.Suspended, s.process) {
				found = append(found, Finding{
					Where: "group " + g.Name, Severity: s.severity, What: "its process " + s.process + " is suspended", Cost: s.cost,
					Fix:     "resume it, unless the group is being worked on",
					Command: fmt.Sprintf("aws autoscaling resume-processes --auto-scaling-group-name %s --scaling-processes %s", Quote(g.Name), s.process),
				})
			}
		}
	}
	return found
}

func (v *view) maintenancePolicies() (found []Finding) {
	for _, g := range v.Groups {
		if g.MinHealthy != asg.NoPolicy && g.MinHealthy < 100 {
			found = append(found, Finding{
				Where: "group " + g.Name, Severity: Warning, What: fmt.Sprintf("its maintenance policy keeps only %d%% of its capacity", g.MinHealthy),
				Cost: "instances are terminated before their replacements run, and evicted pods wait for room", Fix: "launch before terminating",
				Command: fmt.Sprintf("aws autoscaling update-auto-scaling-group --auto-scaling-group-name %s "+
					"--instance-maintenance-policy MinHealthyPercentage=100,MaxHealthyPercentage=110", Quote(g.Name)),
			})
		}
	}
	return found
}

// autoscaledGroups finds groups that others manage too
// (https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/aws/README.md).
func (v *view) autoscaledGroups() (found []Finding) {
	scaled := slices.ContainsFunc(v.pods, isClusterAutoscaler) // EKS tags the groups of all its node groups, whether it runs or not
	for _, g := range v.Groups {
		if _, is := g.Tags["k8s.io/cluster-autoscaler/enabled"]; is && scaled && isRebalanced(g) {
			found = append(found, Finding{
				Where: "group " + g.Name, Severity: Warning, What: fmt.Sprintf("Cluster Autoscaler manages it, and it may rebalance %s", named(g.Zones)),
				Cost:    "Auto Scaling undoes what Cluster Autoscaler did, and terminates nodes that are in use",
				Fix:     "suspend AZRebalance, or use one group per zone",
				Command: "aws autoscaling suspend-processes --scaling-processes AZRebalance --auto-scaling-group-name " + Quote(g.Name),
			})
		}
		for _, i := range g.Instances {
			if n := v.nodes[v.instances[i.ID]]; n != nil && n.Labels[karpenterPool] != "" {
				found = append(found, Finding{
					Where: "group " + g.Name, Severity: Warning, What: "Karpenter manages nodes of it too",
					Cost: "each replaces the nodes that the other removes", Fix: "leave the group to one of them: remove Karpenter's labels",
				})
				break
			}
		}
	}
	return found
}

// configuredGroups compares the groups with the configuration, if there is one.
func (v *view) configuredGroups() (found []Finding) {
	if !v.Configured {
		return nil
	}
	for _, g := range v.Groups {
		if !v.Config.Groups.Match(g.Name, g.Tags) {
			found = append(found, Finding{
				Where: "group " + g.Name, Severity: Warning, What: "autoScalingGroups in quiesce.yaml does not match it",
				Cost: "its nodes are terminated undrained", Fix: "add it to autoScalingGroups, then make deploy",
			})
		}
	}
	return found
}

// short formats a duration without zero parts.
func short(d time.Duration) string {
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
