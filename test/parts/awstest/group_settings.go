package awstest

// GroupSettings are settings of a group that decide how its instances leave.
type GroupSettings struct {
	Suspended  []string // processes
	MinHealthy int      // percent, of its instance maintenance policy; zero: it has none
}

// SetGroup gives a group these settings, and no others.
func (s *Server) SetGroup(name string, settings GroupSettings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.group(name).settings = settings
}

// suspendedXML, maintenanceXML and retentionXML are parts of a group
// (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_AutoScalingGroup.html).
type suspendedXML struct{ ProcessName, SuspensionReason string }

type maintenanceXML struct{ MinHealthyPercentage, MaxHealthyPercentage int }

type retentionXML struct {
	TerminateHookAbandon string `xml:"RetentionTriggers>TerminateHookAbandon"`
}

// launchBefore is the highest MaxHealthyPercentage of a policy with this MinHealthyPercentage: they differ by 100 at most.
const launchBefore = 100

func (g *group) describeSettings(x *groupXML) {
	for _, process := range g.settings.Suspended {
		x.SuspendedProcesses = append(x.SuspendedProcesses, suspendedXML{process, "User suspended at a time"})
	}
	if least := g.settings.MinHealthy; least > 0 {
		x.MaintenancePolicy = &maintenanceXML{least, least + launchBefore}
	}
	if g.retains {
		x.LifecyclePolicy = &retentionXML{"retain"}
	}
}
