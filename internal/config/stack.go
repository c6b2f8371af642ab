package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Stack says how the function is deployed. Only the CDK app uses it. The function checks it as strictly as the rest, so that
// both reject the same files.
type Stack struct {
	Name                string // of the stack and its resources; empty: see Config.StackName
	Account, Region     string // of the deployment; empty: those of the caller of CDK
	MaxConcurrency      int    // most drains at once
	ReservedConcurrency bool   // whether to reserve that many of the account's concurrent executions
	LogRetentionDays    int
	AccessEntry         bool     // whether the stack creates an EKS access entry; if not, aws-auth must map the role
	ClusterEndpoint     string   // for the environment; empty together with ClusterCA: the function asks EKS
	ClusterCA           string   // base64 of PEM
	VPC                 *VPC     // of the function; nil: none
	KMSKeys             []string // ARNs of the keys that encrypt what the function reads from Secrets Manager
	AlarmTopic          string   // ARN of the SNS topic of the alarms; empty: the stack creates one
	ArchiveReports      bool     // whether the stack has a bucket for reports
}

// VPC is the network of a cluster with a private API server endpoint, or with poolers that the function connects to.
type VPC struct {
	ID                   string
	Subnets              []string
	ClusterSecurityGroup string   // of the cluster; the stack adds rules that admit the function
	PodSecurityGroups    []string // of pods and their nodes, if not the cluster's; the stack adds rules for the consoles' ports
	DualStack            bool
}

const (
	// defaultMaxConcurrency drains a large rebalance at once, and leaves nine tenths of an account's usual 1,000 executions to
	// other functions. Further nodes wait. The sweep sends their heartbeats, while their drain.maxDuration runs. With ten, as fast for pods
	// that stop at once, the last of 100 nodes would wait for ten drains: minutes, if pods need half a minute to stop (test/README.md).
	defaultMaxConcurrency = 100
	// defaultLogRetentionDays is a quarter: incident reviews ask about a node within that time, not later.
	defaultLogRetentionDays = 90
	// stackNameMax is Lambda's limit for the name of a function:
	// https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html.
	stackNameMax = 64
)

func defaultStack() Stack {
	return Stack{
		MaxConcurrency: defaultMaxConcurrency, ReservedConcurrency: true, LogRetentionDays: defaultLogRetentionDays, AccessEntry: true,
	}
}

// StackName returns the name of the stack, and of its function, queue and dashboard.
func (c Config) StackName() string {
	name := cmp.Or(c.Stack.Name, strings.ReplaceAll(c.clusterStack(), "_", "-")) // CloudFormation allows no underscore
	return name[:min(len(name), stackNameMax)]
}

// CheckStackName returns an error if another cluster could have the same StackName: its stack would replace this one. The function does
// not check it, because its stack is there already.
func (c Config) CheckStackName() error {
	name := c.StackName()
	if c.Stack.Name != "" || name == c.clusterStack() {
		return nil
	}
	reason := "an underscore is not allowed in it"
	if len(c.clusterStack()) > stackNameMax {
		reason = fmt.Sprintf("it has at most %d characters", stackNameMax)
	}
	return fmt.Errorf("stack.name: required for cluster %s: another cluster could have the name %s too, because %s: "+
		"set stack.name, and to that name if the stack exists", c.Cluster, name, reason)
}

// clusterStack returns the name that the cluster's stack has if CloudFormation allows it.
func (c Config) clusterStack() string { return "quiesce-" + c.Cluster }

func (s *Stack) read(m *mapping) {
	m.get("name").form(&s.Name, "a stack name", `^[A-Za-z][-A-Za-z0-9]{0,63}$`)
	m.get("account").form(&s.Account, "an account ID in quotes", `^\d{12}$`)
	m.get("region").form(&s.Region, "a region", `^[a-z]+(-[a-z]+)+-\d+$`)
	// The limits of an event source mapping:
	// https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html.
	m.get("maxConcurrency").number(&s.MaxConcurrency, 2, 1000)
	m.get("reservedConcurrency").flag(&s.ReservedConcurrency)
	m.get("logRetentionDays").oneOf(&s.LogRetentionDays, logRetentionDays)
	m.get("accessEntry").flag(&s.AccessEntry)
	s.readCluster(m.get("clusterEndpoint"), m.get("clusterCA"))
	m.get("vpc").section(s.readVPC)
	// An alias is not enough: a policy that names one allows nothing.
	// https://docs.aws.amazon.com/kms/latest/developerguide/cmks-in-iam-policies.html.
	m.get("kmsKeys").optionalNames(&s.KMSKeys, matching("a KMS key ARN", `^arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]{1,256}$`))
	m.get("alarmTopic").form(&s.AlarmTopic, "a topic ARN", `^arn:[a-z-]+:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}$`)
	m.get("archiveReports").flag(&s.ArchiveReports)
}

// logRetentionDays are the retentions that CloudWatch Logs allows:
// https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html.
var logRetentionDays = []int{
	1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
}

// readCluster reads the future QUIESCE_CLUSTER_ENDPOINT and QUIESCE_CLUSTER_CA by the rules of those variables.
func (s *Stack) readCluster(endpoint, ca value) {
	endpoint.checked(setEndpoint(&s.ClusterEndpoint))
	ca.checked(func(text string) error {
		s.ClusterCA = text
		return new(Config).setCA(text)
	})
	switch {
	case endpoint.isSet() && !ca.isSet():
		ca.errorf("required with clusterEndpoint")
	case ca.isSet() && !endpoint.isSet():
		endpoint.errorf("required with clusterCA")
	}
}

// securityGroupID is the form of a security group's ID.
const securityGroupID = `^sg-[0-9a-f]{8,17}$`

func (s *Stack) readVPC(m *mapping) {
	s.VPC = &VPC{}
	m.get("id").required().form(&s.VPC.ID, "a VPC ID", `^vpc-[0-9a-f]{8,17}$`)
	m.get("subnets").required().names(&s.VPC.Subnets, matching("a subnet ID", `^subnet-[0-9a-f]{8,17}$`))
	m.get("clusterSecurityGroup").required().form(&s.VPC.ClusterSecurityGroup, "a security group ID", securityGroupID)
	m.get("podSecurityGroups").optionalNames(&s.VPC.PodSecurityGroups, matching("a security group ID", securityGroupID))
	m.get("dualStack").flag(&s.VPC.DualStack)
}

// form reads a text that matches a pattern. Most files set few of them, so a pattern is compiled only when it is needed.
func (v value) form(into *string, what, pattern string) {
	v.checked(func(text string) error {
		*into = text
		return matching(what, pattern)(text)
	})
}

func matching(what, pattern string) func(string) error {
	return func(text string) error {
		if !regexp.MustCompile(pattern).MatchString(text) {
			return fmt.Errorf("not %s: %s", what, oneLine(text))
		}
		return nil
	}
}

// oneLine returns the text, in quotes if it would not print as it is: an error has one line.
func oneLine(text string) string {
	if quoted := strconv.Quote(text); quoted[1:len(quoted)-1] != text {
		return quoted
	}
	return text
}

// oneOf reads one of the allowed numbers.
func (v value) oneOf(into *int, allowed []int) {
	n := *into
	if v.number(&n, allowed[0], allowed[len(allowed)-1]); !slices.Contains(allowed, n) {
		v.errorf("must be one of %v: %d", allowed, n)
		return
	}
	*into = n
}
