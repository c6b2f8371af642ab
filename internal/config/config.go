// Package config turns the function's file and environment into finished types: durations, label selectors, globs. It is
// strict: an unknown key, a wrong type, a bad selector or an impossible value is an error. A drain would reveal such a
// mistake too late. All errors are reported together, and the function does not start.
//
// The file is quiesce.yaml. Three keys have no default: autoScalingGroups, mode, and cluster unless CLUSTER_NAME is set. A
// key with a null value counts as not set. The environment adds what differs between deployments:
//
//	QUIESCE_CONFIG            path of the file; default $LAMBDA_TASK_ROOT/quiesce.yaml
//	QUIESCE_CONFIG_TEXT       the text itself; then no file is read
//	CLUSTER_NAME              name of the cluster; wins over the file
//	QUIESCE_CLUSTER_ENDPOINT  URL of its API server, together with
//	QUIESCE_CLUSTER_CA        the certificates of its CA, base64 of PEM as DescribeCluster returns them
//	QUIESCE_QUEUE_URL         the queue that delivers events
//	QUIESCE_DLQ_URL           the dead-letter queue, for malformed events
//	QUIESCE_REPORT_BUCKET     the S3 bucket that reports are archived in
package config

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// FileName is the name of the file in the function's zip and in errors.
const FileName = "quiesce.yaml"

// Config is the whole configuration.
type Config struct {
	Cluster          string // name of the EKS cluster
	Groups           Groups // the Auto Scaling groups whose terminations quiesce handles
	Mode             Mode
	Lifecycle        Lifecycle
	Drain            Drain
	Phases           []Phase // in drain order; exactly one is called Workloads
	AllowManualDrain bool    // of instances that do not wait on our hook
	Stack            Stack   // how the function is deployed

	QueueURL, DeadLetterURL string // empty: no such queue
	ReportBucket            string // empty: reports are not archived
	Endpoint                string // of the API server; empty together with CA: ask DescribeCluster
	CA                      []byte // PEM
}

// Mode says what the function may change.
type Mode string

// The modes. The file must name one: a function that drains by default would surprise its operator.
const (
	ModeShadow Mode = "shadow" // plan and report, change nothing, complete the lifecycle action at once
	ModeDrain  Mode = "drain"
)

// Lifecycle identifies our lifecycle actions, and says how a failed one ends.
type Lifecycle struct {
	Hook      string // name of our hook; no other is ever completed
	OnFailure string // result of the action when the drain itself failed: Continue or Abandon
	// ManageHooks: the function puts our hook on each group of ours that has none.
	ManageHooks bool
}

// The results of a lifecycle action, in Auto Scaling's words:
// https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html.
const (
	Continue = "CONTINUE"
	Abandon  = "ABANDON"
)

// Drain limits a drain, and says what starts one.
type Drain struct {
	MaxDuration               time.Duration // from the start of the lifecycle action
	CompletionReserve         time.Duration // part of MaxDuration, to complete the action
	MaxConcurrentEvictions    int           // evictions in flight at once
	NodeJoinTimeout           time.Duration // how long to wait for a node that is still joining
	VolumeDetachTimeout       time.Duration // how long to wait for volumes to detach
	OnDeadline                OnDeadline
	OnRebalanceRecommendation bool // drain Spot instances that EC2 recommends to replace
	OnSpotInterruption        bool // drain Spot instances that EC2 interrupts
	OnScheduledChange         bool // replace instances for which EC2 has scheduled a reboot, a stop or a retirement
}

// OnDeadline says what happens at the deadline to pods that remain.
type OnDeadline string

// What happens to them.
const (
	Force OnDeadline = "force" // they are deleted early enough to get SIGTERM and their grace period
	Keep  OnDeadline = "keep"  // they are killed with the instance
)

// Load reads the file that QUIESCE_CONFIG names, or the text in QUIESCE_CONFIG_TEXT, and the environment. Its error is of type
// Errors. A stack made from a release has its configuration in the environment, because its zip is the same for all clusters.
func Load(getenv func(string) string) (Config, error) {
	if text := getenv("QUIESCE_CONFIG_TEXT"); text != "" {
		return Parse([]byte(text), getenv)
	}
	path := cmp.Or(getenv("QUIESCE_CONFIG"), filepath.Join(getenv("LAMBDA_TASK_ROOT"), FileName))
	data, err := os.ReadFile(path)
	if err == nil {
		return Parse(data, getenv)
	}
	errs := Errors{{Key: "QUIESCE_CONFIG", Reason: err.Error()}}
	new(Config).readEnvironment(getenv, &errs)
	return Config{}, errs
}

// Parse reads the text of the file, and the environment. Its error is of type Errors.
func Parse(data []byte, getenv func(string) string) (Config, error) {
	config, errs := defaults(), Errors{}
	config.readEnvironment(getenv, &errs)
	config.readFile(data, &errs)
	if len(errs) > 0 {
		slices.SortStableFunc(errs, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
		return Config{}, errs
	}
	return config, nil
}
