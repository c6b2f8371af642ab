// Package env joins the real parts on one machine: a control plane with its IAM authenticator, the AWS APIs, and the built
// function under the Lambda runtime API. Tests, the demo and the benchmarks run in it.
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
	// Cluster is the name of the lab's cluster in EKS.
	Cluster = "lab"
	// Hook is the name of our lifecycle hook.
	Hook = "quiesce"
	// hookTimeout is a common heartbeat timeout.
	hookTimeout = 5 * time.Minute
)

// Env is the running parts, joined.
type Env struct {
	Lab  *lab.Lab
	AWS  *awstest.Server
	Logs io.Writer // receives the functions' logs as they are written; may be nil

	folder    string
	bootstrap string
	count     atomic.Int32

	mu        sync.Mutex
	functions []*Function
}

// Options configures an environment. Only Root is required.
type Options struct {
	Root      string   // root of the repository
	Bootstrap string   // path of the built function; built if empty
	Machines  bool     // nodes run containers, with images for workers and of Images
	Images    []string // names of the Debian images that machines have, in all their versions; default: pgbouncer and postgres
}

// Start starts all parts. The only RBAC is that of infra/rbac.yaml. All files are in the lab's folder and are removed with it.
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
	if e.Lab, err = e.startLab(ctx, o); err != nil {
		return nil, fmt.Errorf("start the lab: %w", err)
	}
	e.AWS.AddCluster(Cluster, e.Lab.Endpoint(), e.Lab.CA())
	if err := e.Lab.Create(ctx, filepath.Join(o.Root, "infra", "rbac.yaml")); err != nil {
		return nil, err
	}
	return e, e.prepareFunction(ctx, o.Root, o.Bootstrap)
}

func (e *Env) startLab(ctx context.Context, wanted Options) (*lab.Lab, error) {
	o := lab.Options{
		ClusterName: Cluster, STSProxy: e.AWS.STSProxy(), STSCAFile: e.AWS.STSCAFile(), Region: awstest.Region,
		Roles:    []lab.Role{{ARN: e.AWS.RoleARN(), Username: "quiesce:{{SessionName}}", Groups: []string{"quiesce"}}},
		Machines: wanted.Machines,
	}
	if wanted.Machines {
		var err error
		if o.Images, err = archives(wanted.Images); err != nil {
			return nil, err
		}
		o.Programs = map[string]string{"worker": "quiesce/test/env/worker", "prestop": "quiesce/infra/prestop"}
		if slices.Contains(wanted.Images, "patroni") {
			o.Storage = true // for members with a volume
			o.Programs["patronicallback"] = "quiesce/infra/patronicallback"
		}
	}
	return lab.Start(ctx, o)
}

// prepareFunction makes the folder for functions, and builds the function if necessary.
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

// Stop stops all parts.
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
	return BuildProgram(ctx, root, "./lambda", path)
}

// BuildProgram compiles a program with the flags of Build, so that both share what is compiled.
func BuildProgram(ctx context.Context, root, folder, path string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc",
		"-ldflags", "-s -w -buildid=", "-o", path, folder)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", folder, err, output)
	}
	return nil
}

// Function is one function process with its own identity, so that its requests can be told from others.
type Function struct {
	*runtimeapi.Function
	Session awstest.Session
	User    string           // its Kubernetes user name
	Memory  *lab.MemoryGroup // nil: no limit
}

// Settings configures a function.
type Settings struct {
	Configuration string        // text of quiesce.yaml
	Environment   []string      // additional variables
	Timeout       time.Duration // of an invocation; default 15 minutes
	Memory        int64         // memory limit in bytes; 0: none. Needs lab.RequireMemoryGroups
}

// Function starts the built function with this configuration (the text of quiesce.yaml) and these additional environment
// variables.
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

// functionName is the prefix of the functions' session names.
const functionName = "function-"

// IsFunction reports whether a session of this name belongs to a function.
func IsFunction(session string) bool { return strings.HasPrefix(session, functionName) }

// Functions returns all functions that were started, closed ones included.
func (e *Env) Functions() []*Function {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.functions)
}

// limitMemory limits the memory of a function's processes, in bytes.
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
	ID, Node, Zone, IP string
}

// Group makes an Auto Scaling group with our hook, and nodes for n instances in two zones. Names derive from the group's, so that
// parallel tests have different ones.
func (e *Env) Group(ctx context.Context, group string, n int) ([]Instance, error) {
	return e.group(ctx, group, n, awstest.Hook{Name: Hook, HeartbeatTimeout: hookTimeout})
}

// GroupWithoutHook makes a group whose instances terminate without waiting.
func (e *Env) GroupWithoutHook(ctx context.Context, group string, n int) ([]Instance, error) {
	return e.group(ctx, group, n)
}

func (e *Env) group(ctx context.Context, group string, n int, hooks ...awstest.Hook) ([]Instance, error) {
	e.AWS.AddGroup(group, hooks...)
	return e.Launch(ctx, group, n)
}

// Launch adds n new instances to an existing group.
func (e *Env) Launch(ctx context.Context, group string, n int) ([]Instance, error) {
	instances := make([]Instance, n)
	for i := range instances {
		instances[i] = e.newInstance(i)
	}
	return instances, e.Join(ctx, group, instances...)
}

// Move moves instances and their nodes to another group, like DetachInstances and AttachInstances.
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

// SpotInstance adds a Spot instance and its node to a group.
func (e *Env) SpotInstance(ctx context.Context, group string) (Instance, error) {
	i := e.newInstance(0)
	return i, e.join(ctx, group, true, i)
}

// Join adds instances to a group and their nodes to the cluster.
func (e *Env) Join(ctx context.Context, group string, instances ...Instance) error {
	return e.join(ctx, group, false, instances...)
}

func (e *Env) join(ctx context.Context, group string, spot bool, instances ...Instance) error {
	nodes := make([]lab.Node, len(instances))
	for i, instance := range instances {
		e.AWS.AddInstance(group, awstest.Instance{ID: instance.ID, Zone: instance.Zone, PrivateDNS: instance.Node, PrivateIP: instance.IP, Spot: spot})
		nodes[i] = lab.Node{
			Name: instance.Node, InstanceID: instance.ID, Zone: instance.Zone, IP: instance.IP, Labels: map[string]string{"group": group},
		}
	}
	if err := e.Lab.AddNodes(ctx, nodes...); err != nil {
		return fmt.Errorf("add the nodes of %s: %w", group, err)
	}
	return nil
}

func (e *Env) newInstance(i int) Instance {
	serial := int(e.count.Add(1))
	zone, high, low := awstest.Region+string("ab"[i%2]), serial/250, serial%250+1
	return Instance{
		ID: fmt.Sprintf("i-%017x", serial), Zone: zone,
		Node: fmt.Sprintf("ip-10-0-%d-%d.%s.compute.internal", high, low, awstest.Region),
		IP:   fmt.Sprintf("10.0.%d.%d", high, low),
	}
}

// Root returns the repository's root, from any folder inside it.
func Root() (string, error) {
	output, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(output))), nil
}
