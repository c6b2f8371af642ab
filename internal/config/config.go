// Package config turns the function's file and environment into finished types: durations, label selectors, globs. It is
// strict, because a drain that misunderstood its configuration is noticed when it is too late: an unknown key, a wrong
// type, a bad selector or a senseless value is a fault, all faults are reported together, and the function does not start.
//
// The file is quiesce.yaml, of which every key but autoScalingGroups (and cluster, unless CLUSTER_NAME is set) has a
// default. A key with a null value counts as not given. The environment adds what differs from one deployment to the next:
//
//	QUIESCE_CONFIG            path of the file; default $LAMBDA_TASK_ROOT/quiesce.yaml
//	CLUSTER_NAME              name of the cluster; wins over the file
//	QUIESCE_CLUSTER_ENDPOINT  URL of its API server, together with
//	QUIESCE_CLUSTER_CA        its CA's certificates, base64 of PEM as DescribeCluster gives them
//	QUIESCE_QUEUE_URL         the queue that events come through
//	QUIESCE_DLQ_URL           the queue for what cannot be processed
//	QUIESCE_REPORT_BUCKET     the S3 bucket that reports are kept in
package config

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// FileName is what the file is called in the function's zip and in faults.
const FileName = "quiesce.yaml"

// Config is all that can be set.
type Config struct {
	Cluster          string // name of the EKS cluster
	Groups           Globs  // the Auto Scaling groups whose terminations are ours
	Mode             Mode
	Lifecycle        Lifecycle
	Drain            Drain
	Phases           []Phase // in the order of leaving; exactly one is called Workloads
	AllowManualDrain bool    // of instances that do not wait on our hook
	Stack            Stack   // how it is deployed

	QueueURL, DeadLetterURL string // empty: there is none
	ReportBucket            string // likewise
	Endpoint                string // of the API server; empty, as CA is then: ask DescribeCluster
	CA                      []byte // PEM
}

// Mode is how much the function does.
type Mode string

// The modes.
const (
	ModeDrain  Mode = "drain"
	ModeShadow Mode = "shadow" // plan and report, change nothing, let the instance go at once
)

// Lifecycle is how a lifecycle action is recognised, and how it ends.
type Lifecycle struct {
	Hook      string // name of our hook; no other is ever completed
	OnFailure Result // of the action when the drain itself failed
}

// Result is Auto Scaling's word for how a lifecycle action ended:
// https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html.
type Result string

// The results.
const (
	Continue Result = "CONTINUE"
	Abandon  Result = "ABANDON"
)

// Drain bounds a drain.
type Drain struct {
	MaxDuration               time.Duration // from the beginning of the lifecycle action
	CompletionReserve         time.Duration // of MaxDuration, for completing the action
	MaxConcurrentEvictions    int           // evictions under way at once
	NodeJoinTimeout           time.Duration // how long to wait for a node that is still joining
	VolumeDetachTimeout       time.Duration // how long to wait for volumes to be detached
	OnDeadline                OnDeadline
	OnRebalanceRecommendation bool // drain instances that EC2 recommends to replace, as it may soon take them back
}

// OnDeadline is what becomes of the pods that are left when time runs out.
type OnDeadline string

// What can become of them.
const (
	Force OnDeadline = "force" // deleted, so that they get a signal and what grace there is
	Keep  OnDeadline = "leave" // left to die with the instance
)

// Load reads the file that QUIESCE_CONFIG names, and the environment. Its error is Faults.
func Load(getenv func(string) string) (Config, error) {
	path := cmp.Or(getenv("QUIESCE_CONFIG"), filepath.Join(getenv("LAMBDA_TASK_ROOT"), FileName))
	data, err := os.ReadFile(path)
	if err == nil {
		return Parse(data, getenv)
	}
	faults := Errors{{Key: "QUIESCE_CONFIG", Reason: err.Error()}}
	new(Config).readEnvironment(getenv, &faults)
	return Config{}, faults
}

// Parse reads the file's text, and the environment. Its error is Faults.
func Parse(data []byte, getenv func(string) string) (Config, error) {
	config, faults := defaults(), Errors{}
	config.readEnvironment(getenv, &faults)
	config.readFile(data, &faults)
	if len(faults) > 0 {
		slices.SortStableFunc(faults, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
		return Config{}, faults
	}
	return config, nil
}

// OwnsGroup tells whether the terminations of an Auto Scaling group are ours.
func (c Config) OwnsGroup(name string) bool { return c.Groups.Match(name) }
