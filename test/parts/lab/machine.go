package lab

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/parts/tools"
)

//go:embed config/machine.sh
var machineScript []byte

//go:embed config/containerd.toml config/kubelet.yaml config/kube-proxy.yaml config/cni.conflist
var machineFiles embed.FS

var machineTemplates = template.Must(template.ParseFS(machineFiles, "config/*"))

const (
	// kubeProxyUser is the user to which Kubernetes' default RBAC grants what kube-proxy needs.
	kubeProxyUser = "system:kube-proxy"
	// kubeletUserPrefix and kubeletGroup identify a kubelet to the node authorizer
	// (https://kubernetes.io/docs/reference/access-authn-authz/node/).
	kubeletUserPrefix = "system:node:"
	kubeletGroup      = "system:nodes"

	// pluginFolder is the folder of Debian's containernetworking-plugins.
	pluginFolder = "/usr/lib/cni"
)

// machine is a node that runs containers: containerd, kubelet and kube-proxy in their own network, mount and process namespaces.
// When the first process of the process namespace ends, the kernel ends all others, and mounts and network vanish with them.
type machine struct {
	node    Node
	number  int
	dir     string
	cgroup  string
	process *process
}

// MissingForMachines returns what this host lacks to run machines; nil if nothing.
func MissingForMachines() error {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return errors.New("nodes that run containers need Linux and root")
	}
	var errs []error
	for _, program := range []string{"containerd", "runc", "ctr", "ip", "nft", "nsenter", "unshare", pluginFolder + "/ptp"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("%w: `make setup` installs it", err))
		}
	}
	return errors.Join(errs...)
}

// prepareMachines prepares what machines share: the network and the images.
func (l *Lab) prepareMachines(ctx context.Context) error {
	if !l.options.Machines {
		return nil
	}
	if err := MissingForMachines(); err != nil {
		return err
	}
	if err := raiseLimits(); err != nil {
		return err
	}
	return inParallel(ctx, l.prepareNetwork, l.prepareStore)
}

func (l *Lab) addMachines(ctx context.Context, nodes []Node) error {
	var steps []func(context.Context) error
	for _, node := range nodes {
		m, err := l.newMachine(node)
		if err != nil {
			return err
		}
		if m.number == 1 {
			steps = append(steps, func(ctx context.Context) error { return l.startGateway(ctx, node) })
		}
		steps = append(steps, func(ctx context.Context) error { return l.startMachine(ctx, m) })
	}
	return inParallel(ctx, steps...)
}

func (l *Lab) newMachine(node Node) (*machine, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	number := len(l.machines) + 1
	if number > maxMachines {
		return nil, fmt.Errorf("a lab has at most %d machines", maxMachines)
	}
	m := &machine{
		node: node, number: number,
		dir:    l.Path(fmt.Sprintf("machine%d", number)),
		cgroup: filepath.Join("/", filepath.Base(l.reaper.dir), fmt.Sprintf("machine%d", number)),
	}
	l.machines = append(l.machines, m)
	return m, nil
}

func (l *Lab) startMachine(ctx context.Context, m *machine) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start machine %s: %w", m.node.Name, err)
		}
	}()
	if err := l.writeMachineFiles(ctx, m); err != nil {
		return err
	}
	if err := l.serveVolumes(m); err != nil {
		return err
	}
	if err := makeCgroup(m.cgroup); err != nil {
		return fmt.Errorf("make its control groups: %w", err)
	}
	if err := l.boot(ctx, m); err != nil {
		return err
	}
	if err := l.await(ctx, m.process, l.nodeIsReady(m.node.Name)); err != nil {
		return fmt.Errorf("%w\n%s", err, m.logs())
	}
	return nil
}

// writeMachineFiles writes all files that the machine's programs read.
func (l *Lab) writeMachineFiles(ctx context.Context, m *machine) error {
	for _, folder := range []string{"lib", "log", "cni", "volume-plugins"} {
		if err := os.MkdirAll(m.path(folder), 0o755); err != nil {
			return err
		}
	}
	if err := copyStore(ctx, l.store(), m.path("lib/containerd")); err != nil {
		return fmt.Errorf("give it its images: %w", err)
	}
	for _, file := range []string{"containerd.toml", "kubelet.yaml", "kube-proxy.yaml", "cni.conflist"} {
		if err := l.writeMachineFile(m, file); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	kubelet := user{Name: kubeletUserPrefix + m.node.Name, Groups: []string{kubeletGroup}}
	return errors.Join(
		os.WriteFile(m.path("machine.sh"), machineScript, 0o600),
		l.writeKubeconfigTo(m.path("kubelet.kubeconfig"), kubelet),
		l.writeKubeconfigTo(m.path("kube-proxy.kubeconfig"), user{Name: kubeProxyUser}),
	)
}

func (l *Lab) writeMachineFile(m *machine, name string) error {
	var content bytes.Buffer
	if err := machineTemplates.ExecuteTemplate(&content, name, l.settings(m)); err != nil {
		return err
	}
	if strings.HasSuffix(name, ".conflist") {
		name = "cni/" + name
	}
	return os.WriteFile(m.path(name), content.Bytes(), 0o600)
}

// settings returns the values of the templates in config/.
func (l *Lab) settings(m *machine) map[string]string {
	return map[string]string{
		"Name": m.node.Name, "ProviderID": m.node.providerID(), "Dir": m.dir, "Cgroup": m.cgroup,
		"Address": l.network.machine(m.number), "PodCIDR": l.network.podsOf(m.number), "Pods": l.network.pods(),
		"CA": l.Path("ca.crt"), "Sandbox": "localhost/" + sandbox + ":lab", "Plugins": pluginFolder,
		"DNS": l.network.host(), "Domain": clusterDomain,
	}
}

// path returns the path of a file in the machine's folder.
func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// boot starts the machine's first process and connects it.
func (l *Lab) boot(ctx context.Context, m *machine) error {
	kubelet, err := tools.Path("kubelet")
	if err != nil {
		return err
	}
	proxy, err := tools.Path("kube-proxy")
	if err != nil {
		return err
	}
	cmd := l.program(context.Background(), "unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
		"--propagation=private", "sh", m.path("machine.sh"), m.dir, kubelet, proxy, m.node.Name, m.kubeletFlags(l.network))
	if m.process, err = l.spawn(filepath.Base(m.dir), cmd); err != nil {
		return err
	}
	if err := l.await(ctx, m.process, isolated(m.process.pid)); err != nil {
		return err
	}
	if err := l.network.connect(ctx, m.number, m.process.pid); err != nil {
		return fmt.Errorf("connect it: %w", err)
	}
	return nil
}

func (m *machine) kubeletFlags(n *network) string {
	labels := make([]string, 0, len(m.node.Labels))
	for key, value := range m.node.machineLabels() {
		labels = append(labels, key+"="+value)
	}
	return "--node-ip=" + n.machine(m.number) + " --node-labels=" + strings.Join(labels, ",")
}

// nodeIsReady returns a readiness check of a node. kube-controller-manager removes the taint of nodes that are not ready a moment after the
// kubelet's report, and no pod goes there before.
func (l *Lab) nodeIsReady(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		node, err := l.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready, message := readiness(node)
		if ready != corev1.ConditionTrue {
			return fmt.Errorf("the kubelet reports Ready=%s: %s", ready, message)
		}
		if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }) {
			return fmt.Errorf("it still has the taint %s", corev1.TaintNodeNotReady)
		}
		return nil
	}
}

func readiness(node *corev1.Node) (ready corev1.ConditionStatus, message string) {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status, c.Message
		}
	}
	return "", "nothing"
}

func (m *machine) logs() string {
	var logs strings.Builder
	for _, name := range []string{"containerd", "kubelet", "kube-proxy"} {
		fmt.Fprintf(&logs, "the end of the log of its %s:\n%s\n", name, tail(m.path("log/"+name+".log")))
	}
	return logs.String()
}
