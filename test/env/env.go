// Package env joins the real parts on one machine: a control plane with its IAM authenticator, the AWS APIs, and the built
// function under the Lambda runtime API. Tests, the demo and the benchmarks play on it.
package env

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
)

const (
	// Cluster is what EKS calls the lab.
	Cluster = "lab"
	// Hook is our lifecycle hook.
	Hook = "quiesce"
	// hookTimeout is a heartbeat timeout as people set it.
	hookTimeout = 5 * time.Minute
)

// Env is the real parts, up and joined.
type Env struct {
	Lab  *lab.Lab
	AWS  *awstest.Server
	Logs io.Writer // gets what functions log, as they log it; may be nil

	folder    string
	bootstrap string
	count     atomic.Int32

	mu        sync.Mutex
	functions []*Function
}

// Options says what a stage should be like. Only Root must be given.
type Options struct {
	Root      string // of the repository
	Bootstrap string // the built function; it is built if this is empty
	Machines  bool   // nodes run containers, with images for a database, poolers and workers (images.go)
}

// Start brings everything up. RBAC is what infra/rbac.yaml says, and nothing else. All files are in the lab's folder, and go
// with it.
func Start(ctx context.Context, o Options) (_ *Env, err error) {
	e := &Env{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Stop())
		}
	}()
	if e.AWS, err = awstest.Start(); err != nil {
		return nil, fmt.Errorf("start the AWS APIs: %w", err)
	}
	if e.Lab, err = e.startLab(ctx, o.Machines); err != nil {
		return nil, fmt.Errorf("start the lab: %w", err)
	}
	e.AWS.AddCluster(Cluster, e.Lab.Endpoint(), e.Lab.CA())
	if err := e.Lab.Apply(ctx, filepath.Join(o.Root, "infra", "rbac.yaml")); err != nil {
		return nil, err
	}
	return e, e.prepareFunction(ctx, o.Root, o.Bootstrap)
}

func (e *Env) startLab(ctx context.Context, machines bool) (*lab.Lab, error) {
	o := lab.Options{
		ClusterName: Cluster, STSProxy: e.AWS.STSProxy(), STSCAFile: e.AWS.STSCAFile(), Region: awstest.Region,
		Roles:    []lab.Role{{ARN: e.AWS.RoleARN(), Username: "quiesce:{{SessionName}}", Groups: []string{"quiesce"}}},
		Machines: machines,
	}
	if machines {
		var err error
		if o.Images, err = archives(); err != nil {
			return nil, err
		}
		o.Programs = map[string]string{"worker": "quiesce/test/env/worker"}
	}
	return lab.Start(ctx, o)
}

// prepareFunction makes the place for functions, and the function.
func (e *Env) prepareFunction(ctx context.Context, root, bootstrap string) error {
	e.folder, e.bootstrap = e.Lab.Path("functions"), bootstrap
	if err := os.Mkdir(e.folder, 0o755); err != nil {
		return err
	}
	if bootstrap != "" {
		return nil
	}
	e.bootstrap = filepath.Join(e.folder, "bootstrap")
	return Build(ctx, root, e.bootstrap)
}

// Stop takes everything down.
func (e *Env) Stop() error {
	var err error
	if e.Lab != nil {
		err = e.Lab.Stop()
	}
	if e.AWS != nil {
		e.AWS.Close()
	}
	return err
}

// Build compiles the function for this machine, as `make build` does.
func Build(ctx context.Context, root, path string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc",
		"-ldflags", "-s -w -buildid=", "-o", path, "./lambda")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the function: %w\n%s", err, output)
	}
	return nil
}

// Function is one function process with an identity of its own, so that its requests can be told from any other's.
type Function struct {
	*runtimeapi.Function
	Session awstest.Session
	User    string           // what Kubernetes knows it as
	Memory  *lab.MemoryGroup // nil: it has no limit
}

// Settings are what a function is started with.
type Settings struct {
	Configuration string        // quiesce.yaml's text
	Environment   []string      // further variables
	Timeout       time.Duration // of an invocation; 15 minutes unless given
	Memory        int64         // the most it may use, in bytes; 0: no limit. Needs lab.RequireMemoryGroups
}

// Function starts the built function with this configuration (quiesce.yaml's text) and these further environment variables.
func (e *Env) Function(ctx context.Context, configuration string, environment ...string) (*Function, error) {
	return e.FunctionWith(ctx, Settings{Configuration: configuration, Environment: environment})
}

// FunctionWith starts the built function.
func (e *Env) FunctionWith(ctx context.Context, settings Settings) (*Function, error) {
	session := e.AWS.Session(fmt.Sprintf(functionName+"%d", e.count.Add(1)))
	root := filepath.Join(e.folder, session.Name)
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(root, "quiesce.yaml"), []byte(settings.Configuration), 0o644); err != nil {
		return nil, err
	}
	options := runtimeapi.Options{
		Bootstrap: e.bootstrap, TaskRoot: root, Logs: e.Logs, Timeout: settings.Timeout,
		Env: append(append(e.AWS.Environment(session), "CLUSTER_NAME="+Cluster), settings.Environment...),
	}
	memory, err := e.limitMemory(&options, session.Name, settings.Memory)
	if err != nil {
		return nil, err
	}
	function, err := runtimeapi.Start(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("start the function: %w", err)
	}
	added := &Function{Function: function, Session: session, User: "quiesce:" + session.Name, Memory: memory}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.functions = append(e.functions, added)
	return added, nil
}

// functionName is how the names of functions' sessions begin.
const functionName = "function-"

// IsFunction tells whether a session of this name is a function's.
func IsFunction(session string) bool { return strings.HasPrefix(session, functionName) }

// Functions are all that were started, those included that are closed by now.
func (e *Env) Functions() []*Function {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.functions)
}

// limitMemory has a function's processes use no more memory than that.
func (e *Env) limitMemory(o *runtimeapi.Options, name string, limit int64) (*lab.MemoryGroup, error) {
	if limit == 0 {
		return nil, nil
	}
	group, err := e.Lab.MemoryGroup(name, limit)
	if err != nil {
		return nil, fmt.Errorf("bound the function's memory: %w", err)
	}
	o.Entry = group.Entry()
	return group, nil
}

// Instance is an instance and its node.
type Instance struct {
	ID, Node, Zone string
}

// Group makes an Auto Scaling group with our hook, and nodes for n instances spread over two zones. Names derive from the
// group's, so that tests side by side do not meet.
func (e *Env) Group(ctx context.Context, group string, n int) ([]Instance, error) {
	return e.group(ctx, group, n, awstest.Hook{Name: Hook, HeartbeatTimeout: hookTimeout})
}

// GroupWithoutHook is one whose instances go as soon as Auto Scaling says so.
func (e *Env) GroupWithoutHook(ctx context.Context, group string, n int) ([]Instance, error) {
	return e.group(ctx, group, n)
}

func (e *Env) group(ctx context.Context, group string, n int, hooks ...awstest.Hook) ([]Instance, error) {
	e.AWS.AddGroup(group, hooks...)
	return e.Launch(ctx, group, n)
}

// Launch puts n new instances into a group that is there.
func (e *Env) Launch(ctx context.Context, group string, n int) ([]Instance, error) {
	instances := make([]Instance, n)
	for i := range instances {
		instances[i] = e.newInstance(i)
	}
	return instances, e.Join(ctx, group, instances...)
}

// Move puts instances into another group, as by DetachInstances and AttachInstances, and their nodes with them.
func (e *Env) Move(ctx context.Context, group string, instances ...Instance) error {
	for _, i := range instances {
		e.AWS.MoveInstance(group, i.ID)
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"group":%q}}}`, group)
		_, err := e.Lab.Client().CoreV1().Nodes().Patch(ctx, i.Node, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("move node %s to %s: %w", i.Node, group, err)
		}
	}
	return nil
}

// SpotInstance is a further instance of a group, with its node, that EC2 may take back.
func (e *Env) SpotInstance(ctx context.Context, group string) (Instance, error) {
	i := e.newInstance(0)
	return i, e.join(ctx, group, true, i)
}

// Join puts instances into a group, and their nodes into the cluster.
func (e *Env) Join(ctx context.Context, group string, instances ...Instance) error {
	return e.join(ctx, group, false, instances...)
}

func (e *Env) join(ctx context.Context, group string, spot bool, instances ...Instance) error {
	nodes := make([]lab.Node, len(instances))
	for i, instance := range instances {
		e.AWS.AddInstance(group, awstest.Instance{ID: instance.ID, Zone: instance.Zone, PrivateDNS: instance.Node, Spot: spot})
		nodes[i] = lab.Node{
			Name: instance.Node, InstanceID: instance.ID, Zone: instance.Zone, Labels: map[string]string{"group": group},
		}
	}
	if err := e.Lab.AddNodes(ctx, nodes...); err != nil {
		return fmt.Errorf("add the nodes of %s: %w", group, err)
	}
	return nil
}

func (e *Env) newInstance(i int) Instance {
	serial := int(e.count.Add(1))
	zone := awstest.Region + string("ab"[i%2])
	return Instance{
		ID: fmt.Sprintf("i-%017x", serial), Zone: zone,
		Node: fmt.Sprintf("ip-10-0-%d-%d.%s.compute.internal", serial/250, serial%250+1, awstest.Region),
	}
}

// Root is the repository's root, from wherever inside it this process was started.
func Root() (string, error) {
	output, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(output))), nil
}
