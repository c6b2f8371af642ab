package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Stack is how the function is deployed. It is read by the CDK app; the function reads it as strictly as the rest and does nothing
// with it, so that what would stop the one stops the other.
type Stack struct {
	Name                string // of the stack and what is in it; empty: see Config.StackName
	Account, Region     string // where it belongs; empty: wherever it is deployed
	MaxConcurrency      int    // nodes that are drained at once
	ReservedConcurrency bool   // whether that many of the account's concurrent executions are set aside
	LogRetentionDays    int
	AccessEntry         bool   // whether EKS lets the function in by an access entry; else aws-auth must
	ClusterEndpoint     string // for the environment; empty, as ClusterCA is then: the function asks EKS
	ClusterCA           string // base64 of PEM
	VPC                 *VPC   // that the function is attached to; nil: none
	SpotInterruptions   bool   // whether Spot interruption notices come through the queue too
	AlarmTopic          string // ARN of the SNS topic that alarms go to; empty: the stack makes one
	ArchiveReports      bool   // whether reports are kept in a bucket
}

// VPC is the network of a cluster that the function must reach from inside.
type VPC struct {
	ID                   string
	Subnets              []string
	ClusterSecurityGroup string // of the API server; the function is let in there
	DualStack            bool
}

const (
	// defaultStackConcurrency drains a large rebalance at once, and leaves nine tenths of an account's usual thousand executions to
	// others. Nodes beyond it wait their turn, kept alive by the sweep, while their drain.maxDuration runs.
	defaultStackConcurrency = 100
	// defaultLogDays is a quarter: what was done to a node is asked about when the incident is reviewed, not later.
	defaultLogDays = 90
	// longestStackName is Lambda's limit for a function's name:
	// https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html.
	longestStackName = 64
)

func defaultStack() Stack {
	return Stack{MaxConcurrency: defaultStackConcurrency, ReservedConcurrency: true, LogRetentionDays: defaultLogDays, AccessEntry: true}
}

// StackName is what the stack is called, and the function, the queue and the dashboard in it.
func (c Config) StackName() string {
	name := cmp.Or(c.Stack.Name, "quiesce-"+strings.ReplaceAll(c.Cluster, "_", "-")) // which CloudFormation does not know
	return name[:min(len(name), longestStackName)]
}

func (s *Stack) read(m *mapping) {
	m.get("name").form(&s.Name, "the name of a stack", `^[A-Za-z][-A-Za-z0-9]{0,63}$`)
	m.get("account").form(&s.Account, "an account's number in quotes", `^\d{12}$`)
	m.get("region").form(&s.Region, "a region", `^[a-z]+(-[a-z]+)+-\d+$`)
	// What an event source mapping can be limited to:
	// https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html.
	m.get("concurrency").number(&s.MaxConcurrency, 2, 1000)
	m.get("reserved").flag(&s.ReservedConcurrency)
	m.get("logDays").oneOf(&s.LogRetentionDays, logDays)
	m.get("accessEntry").flag(&s.AccessEntry)
	s.readCluster(m.get("clusterEndpoint"), m.get("clusterCA"))
	m.get("vpc").section(s.readVPC)
	m.get("spotNotices").flag(&s.SpotInterruptions)
	m.get("alarmTopic").form(&s.AlarmTopic, "the ARN of a topic", `^arn:[^:]+:sns:[^:]+:\d{12}:[^:]+$`)
	m.get("reports").flag(&s.ArchiveReports)
}

// logDays are what CloudWatch can keep logs for:
// https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html.
var logDays = []int{
	1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
}

// readCluster takes what the environment's QUIESCE_CLUSTER_ENDPOINT and QUIESCE_CLUSTER_CA will be, by the rules for those.
func (s *Stack) readCluster(endpoint, ca value) {
	endpoint.checked(setURL(&s.ClusterEndpoint, "https"))
	ca.checked(func(text string) error {
		s.ClusterCA = text
		return new(Config).setCA(text)
	})
	switch {
	case endpoint.given() && !ca.given():
		ca.fault("missing beside clusterEndpoint")
	case ca.given() && !endpoint.given():
		endpoint.fault("missing beside clusterCA")
	}
}

func (s *Stack) readVPC(m *mapping) {
	s.VPC = &VPC{}
	m.get("id").required().form(&s.VPC.ID, "a VPC's id", `^vpc-[0-9a-f]{8,17}$`)
	m.get("subnets").required().names(&s.VPC.Subnets, matching("a subnet's id", `^subnet-[0-9a-f]{8,17}$`))
	m.get("clusterSecurityGroup").required().
		form(&s.VPC.ClusterSecurityGroup, "a security group's id", `^sg-[0-9a-f]{8,17}$`)
	m.get("dualStack").flag(&s.VPC.DualStack)
}

// form takes a text of this form. Few of them are given, so that none is compiled before it is.
func (v value) form(into *string, what, pattern string) {
	v.checked(func(text string) error {
		*into = text
		return matching(what, pattern)(text)
	})
}

func matching(what, pattern string) func(string) error {
	return func(text string) error {
		if !regexp.MustCompile(pattern).MatchString(text) {
			return fmt.Errorf("not %s: %s", what, text)
		}
		return nil
	}
}

// oneOf takes one of the numbers that are allowed.
func (v value) oneOf(into *int, allowed []int) {
	n := *into
	if v.number(&n, allowed[0], allowed[len(allowed)-1]); !slices.Contains(allowed, n) {
		v.fault("must be one of %v: %d", allowed, n)
		return
	}
	*into = n
}
