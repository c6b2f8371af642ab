package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// three is three nodes in two zones.
var three = []Node{
	{Name: "ip-10-0-0-1.us-east-1.compute.internal", InstanceID: "i-01", Zone: "us-east-1a", Labels: map[string]string{"group": "a"}},
	{Name: "ip-10-0-0-2.us-east-1.compute.internal", InstanceID: "i-02", Zone: "us-east-1b"},
	{Name: "ip-10-0-0-3.us-east-1.compute.internal", InstanceID: "i-03", Zone: "us-east-1a"},
}

func TestMachine_Node_LooksLikeEKS(t *testing.T) {
	RequireMachines(t)
	l := startMachines(t)
	node, err := l.Client().CoreV1().Nodes().Get(t.Context(), three[0].Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "aws:///us-east-1a/i-01", node.Spec.ProviderID)
	require.Equal(t, "us-east-1a", node.Labels[corev1.LabelTopologyZone])
	require.Equal(t, "us-east-1", node.Labels[corev1.LabelTopologyRegion])
	require.Equal(t, "a", node.Labels["group"])
	require.Equal(t, kubernetesVersion(), node.Status.NodeInfo.KubeletVersion)
}

func TestService_FromMachinesAndHost_Reachable(t *testing.T) {
	RequireMachines(t)
	l := startMachines(t)
	service := serveOn(t, l, three[0])
	dials := func() bool { // from the host
		connection, err := net.DialTimeout("tcp", service, time.Second)
		return err == nil && connection.Close() == nil
	}
	require.Eventually(t, dials, waitTimeout, tick)
	for _, node := range three { // and from each machine, as its pods do
		host, port, _ := net.SplitHostPort(service)
		require.Eventually(t, func() bool {
			cmd, err := l.Inside(t.Context(), node.Name, "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port)
			return err == nil && cmd.Run() == nil
		}, waitTimeout, tick, "from %s", node.Name)
	}
	require.NoError(t, l.CutServices(t.Context()))
	require.False(t, dials(), "the host still has a route")
}

// Patroni and operators need this. The files are those that the kubelet gives to the pod's containers.
func TestPod_ServiceAccountToken_AcceptedOverService(t *testing.T) {
	RequireMachines(t)
	l := startMachines(t)
	serveOn(t, l, three[0])
	read := func(file string) []byte {
		cmd, err := l.Inside(t.Context(), three[0].Name, "sh", "-c", "cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*/"+file)
		require.NoError(t, err)
		content, err := cmd.Output()
		require.NoError(t, err)
		return content
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Timeout: 2 * time.Second, // a packet to a proxy that is not there yet is lost
		Host:    "https://" + l.network.kubernetes(), BearerToken: string(read("token")), TLSClientConfig: rest.TLSClientConfig{CAData: read("ca.crt")},
	})
	require.NoError(t, err)
	var who *authenticationv1.SelfSubjectReview
	require.Eventually(t, func() bool { // kube-proxy may still be at it
		who, err = client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err == nil
	}, waitTimeout, tick)
	require.Equal(t, "system:serviceaccount:default:default", who.Status.UserInfo.Username)
}

func TestDNS_Services_Resolved(t *testing.T) {
	RequireMachines(t)
	l, err := Start(t.Context(), Options{Machines: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Stop()) }()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(l.HostIP(), "53"))
	}}
	addresses, err := resolver.LookupHost(t.Context(), "kubernetes.default.svc.cluster.local.")
	require.NoError(t, err)
	require.Equal(t, []string{l.network.kubernetes()}, addresses)
	_, err = resolver.LookupHost(t.Context(), "none.default.svc.cluster.local.")
	var unknown *net.DNSError
	require.ErrorAs(t, err, &unknown)
	require.True(t, unknown.IsNotFound, "%v", err)
}

func TestKill_Machine_VanishesSilently(t *testing.T) {
	RequireMachines(t)
	l := startMachines(t)
	serveOn(t, l, three[0])
	pod, err := l.Client().CoreV1().Pods(metav1.NamespaceDefault).Get(t.Context(), "server", metav1.GetOptions{})
	require.NoError(t, err)
	kubelet, err := net.Dial("tcp", net.JoinHostPort(pod.Status.HostIP, "10250"))
	require.NoError(t, err)
	defer kubelet.Close()
	require.NoError(t, l.Kill(t.Context(), three[0].Name))

	require.NoError(t, kubelet.SetReadDeadline(time.Now().Add(2*time.Second)))
	_, err = kubelet.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded) // neither FIN nor RST
	_, err = net.DialTimeout("tcp", net.JoinHostPort(pod.Status.HostIP, "10250"), 500*time.Millisecond)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "%v", err)
	require.Error(t, l.Kill(t.Context(), "no-such-node"))
}

func TestReaper_MachinesAndProcessKilled_NothingRemains(t *testing.T) {
	RequireMachines(t)
	child, group, dir := startChild(t, "machines")
	require.NotEmpty(t, membersOf(t, dir), "no process is in the lab's control groups")
	require.NoError(t, child.Process.Kill())
	_ = child.Wait() // returns that it was killed
	requireCleanedUp(t, group, dir)
	requireNoTrace(t, dir)
}

// startMachines starts a lab with three machines, and checks after its end that nothing remains.
func startMachines(t *testing.T) *Lab {
	t.Helper()
	l, err := Start(t.Context(), Options{Machines: true})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Stop())
		requireNoTrace(t, l.reaper.dir)
	})
	require.NoError(t, l.AddNodes(t.Context(), three...))
	return l
}

// serveOn runs a pod on a node, and returns the address of a Service to something that listens there: the kubelet, whose network
// the pod shares.
func serveOn(t *testing.T, l *Lab, node Node) (service string) {
	t.Helper()
	core := l.Client().CoreV1()
	_, err := core.Pods(metav1.NamespaceDefault).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "server", Labels: map[string]string{"app": "server"}},
		Spec: corev1.PodSpec{
			NodeName: node.Name, HostNetwork: true,
			Containers: []corev1.Container{{Name: "server", Image: "localhost/pause:lab", ImagePullPolicy: corev1.PullNever}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	s, err := core.Services(metav1.NamespaceDefault).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "server"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(10250)}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		p, err := core.Pods(metav1.NamespaceDefault).Get(t.Context(), "server", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	}, waitTimeout, tick)
	return net.JoinHostPort(s.Spec.ClusterIP, "80")
}

// requireNoTrace requires that no process, mount, control group or network link of the lab remains.
func requireNoTrace(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(membersOf(t, dir)) == 0 }, waitTimeout, tick)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		remaining, err := filepath.Glob(pattern + filepath.Base(dir))
		require.NoError(t, err)
		require.Empty(t, remaining)
	}
	require.NoDirExists(t, dir)
}

// membersOf returns all processes in the lab's control groups.
func membersOf(t *testing.T, dir string) (members []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	require.NoError(t, err)
	for _, path := range all {
		groups, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(groups), filepath.Base(dir)) {
			members = append(members, filepath.Dir(path))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "no such process") {
			require.NoError(t, err)
		}
	}
	return members
}
