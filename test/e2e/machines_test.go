package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	shellImage = "localhost/pgbouncer:1.24" // an image with a shell
	// recordDir is the folder in which containers record what happens to them.
	recordDir = "/witness"
	// clockTolerance is how early a container may seem to have ended: kubelets count whole seconds.
	clockTolerance = 300 * time.Millisecond
)

// newMachineFixture makes a fixture whose n nodes run containers. Such nodes need much memory and CPU: one fixture at a time has
// them, and they are removed with it.
func newMachineFixture(t *testing.T, n int, more ...string) *fixture {
	t.Helper()
	on := sharedMachines(t)
	machineSlots <- struct{}{}
	t.Cleanup(func() { <-machineSlots })
	s := newFixtureOn(t, on, n, more...)
	t.Cleanup(func() {
		for len(s.instances) > 0 {
			s.removeInstance(s.instances[0])
		}
	})
	return s
}

// machineSlots limits how many fixtures with machines run at once.
var machineSlots = make(chan struct{}, 1)

// machines is the shared environment with machines, or the error that prevented it.
var machines = struct {
	sync.Once
	env *env.Env
	err error
}{}

func sharedMachines(t *testing.T) *env.Env {
	t.Helper()
	lab.RequireMachines(t)
	t.Parallel()
	machines.Do(func() { machines.env, machines.err = startEnv(t.Context(), true) })
	require.NoError(t, machines.err)
	return machines.env
}

// removeInstance ends an instance as EC2 does, then removes its node as the cloud controller does.
func (s *fixture) removeInstance(i env.Instance) {
	s.instances = slices.DeleteFunc(s.instances, func(other env.Instance) bool { return other == i })
	require.NoError(s, s.Lab.Kill(s.ctx, i.Node))
	require.NoError(s, s.Lab.RemoveNode(s.ctx, i.Node))
}

// runs makes a pod run a shell script and mounts the folder in which it records what happens.
func (s *fixture) runs(script string, grace int64, change ...func(*corev1.PodSpec)) func(*corev1.PodSpec) {
	folder := s.Lab.Path("witness-" + s.group)
	require.NoError(s, os.MkdirAll(folder, 0o777))
	require.NoError(s, os.Chmod(folder, 0o777)) // containers do not run as root
	return func(p *corev1.PodSpec) {
		p.TerminationGracePeriodSeconds = &grace
		p.Volumes = append(p.Volumes, corev1.Volume{
			Name: "witness", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder}},
		})
		p.Containers[0].Image, p.Containers[0].ImagePullPolicy = shellImage, corev1.PullNever
		p.Containers[0].Command = []string{"sh", "-c", script}
		p.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "witness", MountPath: recordDir}}
		for _, c := range change {
			c(p)
		}
	}
}

func preStop(script string) func(*corev1.PodSpec) {
	return func(p *corev1.PodSpec) {
		p.Containers[0].Lifecycle = &corev1.Lifecycle{
			PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", script}}},
		}
	}
}

// recorded returns what containers recorded, line by line: a word, and when it happened.
func (s *fixture) recorded(file string) (words []string, times []time.Time) {
	s.Helper()
	content, err := os.ReadFile(filepath.Join(s.Lab.Path("witness-"+s.group), file))
	require.NoError(s, err)
	for line := range strings.Lines(string(content)) {
		var word string
		var at float64
		_, err := fmt.Sscan(line, &word, &at)
		require.NoError(s, err, line)
		words, times = append(words, word), append(times, time.UnixMilli(int64(at*1000)))
	}
	return words, times
}

// awaitRecord waits until a container has recorded something: a pod may run before its script has set its trap.
func (s *fixture) awaitRecord(file string) {
	s.Helper()
	s.until("a record in "+file, func() (bool, error) {
		content, err := os.ReadFile(filepath.Join(s.Lab.Path("witness-"+s.group), file))
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return len(content) > 0, err
	})
}

// recordCommand returns a shell command that records a word and the time.
func recordCommand(word, file string) string {
	return fmt.Sprintf("echo %s $(date +%%s.%%N) >>%s/%s", word, recordDir, file)
}

// sleepForever is a shell command that a trap can interrupt.
const sleepForever = "while :; do sleep 1000 & wait $!; done"

func TestEvict_PreStopHook_EndsBeforeSIGTERM(t *testing.T) {
	s := newMachineFixture(t, 1)
	s.runPodOn(s.instances[0], "stateful", func(p *corev1.Pod) {
		s.runs("trap '"+recordCommand("term", "log")+"; exit 0' TERM; "+sleepForever, 30,
			preStop(recordCommand("hook", "log")+"; sleep 4; "+recordCommand("hooked", "log")))(&p.Spec)
	})
	r := s.drain(s.instances[0])
	require.Equal(t, termination.StatusDrained, r.Status, "%+v", r)
	words, times := s.recorded("log")
	require.Equal(t, []string{"hook", "hooked", "term"}, words)
	pod := r.pod(t, "stateful")
	require.Equal(t, drain.Evicted, pod.Outcome)
	require.GreaterOrEqual(t, times[1].Sub(times[0]), 4*time.Second-clockTolerance)
	require.False(t, pod.GoneAt.Before(times[2].Truncate(time.Second)), "gone %s, signaled %s", pod.GoneAt, times[2])
	require.Len(t, s.AWS.Completions(s.instances[0].ID), 1)
}

func TestEvict_IgnoresSIGTERM_KilledAfterGrace(t *testing.T) {
	const grace = 5
	s := newMachineFixture(t, 1)
	s.runPodOn(s.instances[0], "deaf", func(p *corev1.Pod) {
		s.runs("trap '"+recordCommand("term", "log")+"' TERM; while :; do "+recordCommand("alive", "log")+"; sleep 0.2; done", grace)(&p.Spec)
	})
	s.awaitRecord("log")
	r := s.drain(s.instances[0])
	require.Equal(t, termination.StatusDrained, r.Status, "%+v", r)
	words, times := s.recorded("log")
	require.Contains(t, words, "term")
	require.GreaterOrEqual(t, r.pod(t, "deaf").GoneAt.Sub(s.evictions("deaf")[0].Time), grace*time.Second)
	signaled := times[slices.Index(words, "term")]
	require.Less(t, times[len(times)-1].Sub(signaled), 5*grace*time.Second, "it is killed, though the kubelet of a busy machine takes seconds")
}

func TestEvict_PodOfStatefulSet_MovesWithItsName(t *testing.T) {
	s := newMachineFixture(t, 2)
	one, grace := int32(1), int64(2)
	template := s.template("db")
	s.runs("trap 'exit 0' TERM; "+sleepForever, grace)(&template.Spec)
	_, err := s.Lab.Client().AppsV1().StatefulSets(s.group).Create(s.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: s.group},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template,
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.awaitReady("db-0", "")
	from := s.hostOf("db")
	r := s.drain(from)
	require.Equal(t, termination.StatusDrained, r.Status, "%+v", r)
	s.removeInstance(from)
	s.awaitReady("db-0", from.Node)
}

// awaitReady waits until the pod is ready on a node other than notOn.
func (s *fixture) awaitReady(name, notOn string) {
	s.Helper()
	s.until(name+" is ready", func() (bool, error) {
		p, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, name, metav1.GetOptions{})
		return err == nil && p.Spec.NodeName != notOn && p.DeletionTimestamp == nil && isReady(p), err
	})
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// The preStop hook outlasts the update of endpoints and node proxies, as is good practice, on a busy machine too. Then no connection to the
// Service fails, from before the drain until after the node is gone.
func TestEvict_PodOfService_EndpointRemovedBeforeNodeDies(t *testing.T) {
	s := newMachineFixture(t, 2)
	address := s.serve("echo", 2)
	var failed []error
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				connection, err := net.DialTimeout("tcp", address, 10*time.Second)
				if err != nil {
					failed = append(failed, err)
					continue
				}
				connection.Close()
			}
		}
	}()
	target := s.instances[0]
	r := s.drain(target)
	require.Equal(t, termination.StatusDrained, r.Status, "%+v", r)
	require.Empty(t, s.endpointsOn(target))
	s.removeInstance(target)
	s.awaitEndpoints("echo", 1)
	close(stop)
	<-stopped
	require.Empty(t, failed)
}

// serve runs pods behind a Service, one per node, and returns the Service's address.
func (s *fixture) serve(app string, replicas int32) string {
	s.Helper()
	s.deploy(app, replicas, func(d *appsv1.Deployment) {
		p := &d.Spec.Template.Spec
		s.runs("printf '[pgbouncer]\\nlisten_addr = 0.0.0.0\\nlisten_port = 8080\\nunix_socket_dir =\\nauth_type = any\\n' >/tmp/ini; exec pgbouncer /tmp/ini",
			60, preStop("sleep 15"))(p)
		p.Containers[0].ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}},
			PeriodSeconds: 1,
		}
		p.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: d.Spec.Selector,
		}}
	})
	service, err := s.Lab.Client().CoreV1().Services(s.group).Create(s.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 8080}}},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	address := net.JoinHostPort(service.Spec.ClusterIP, "8080")
	s.until("the Service answers", func() (bool, error) {
		connection, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false, err
		}
		return true, connection.Close()
	})
	return address
}

// endpointsOn returns the ready addresses of the fixture's Services on a node.
func (s *fixture) endpointsOn(i env.Instance) (addresses []string) {
	s.Helper()
	for _, e := range s.endpoints() {
		if e.NodeName != nil && *e.NodeName == i.Node && e.Conditions.Ready != nil && *e.Conditions.Ready {
			addresses = append(addresses, e.Addresses...)
		}
	}
	return addresses
}

func (s *fixture) endpoints() (all []discoveryv1.Endpoint) {
	s.Helper()
	list, err := s.Lab.Client().DiscoveryV1().EndpointSlices(s.group).List(s.ctx, metav1.ListOptions{})
	require.NoError(s, err)
	for _, slice := range list.Items {
		all = append(all, slice.Endpoints...)
	}
	return all
}

// awaitEndpoints waits until the Service has n ready endpoints.
func (s *fixture) awaitEndpoints(service string, n int) {
	s.Helper()
	s.until(fmt.Sprintf("%s has %d endpoints", service, n), func() (bool, error) {
		ready := 0
		for _, e := range s.endpoints() {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready++
			}
		}
		return ready >= n, nil
	})
}

func TestEvict_TerminatingPeer_ReceivesNoContainers(t *testing.T) {
	s := newMachineFixture(t, 3)
	s.deploy("web", 6, func(d *appsv1.Deployment) {
		s.runs("trap 'exit 0' TERM; "+sleepForever, 5)(&d.Spec.Template.Spec)
	})
	first := s.hostOf("web")
	second := s.instances[0]
	if second == first {
		second = s.instances[1]
	}
	before := namesOf(s.podsOn(second))
	s.terminate(second) // terminates too, but its drain has not started
	r := s.drain(first)
	require.Equal(t, termination.StatusDrained, r.Status, "%+v", r)
	s.until("the pods run elsewhere", func() (bool, error) {
		d, err := s.Lab.Client().AppsV1().Deployments(s.group).Get(s.ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.ReadyReplicas == 6, err
	})
	require.Subset(t, before, namesOf(s.podsOn(second)))
}

func namesOf(pods []corev1.Pod) []string {
	names := make([]string, len(pods))
	for i, p := range pods {
		names[i] = p.Name
	}
	return names
}

// A forced pod still gets its preStop hook and SIGTERM, with time to react.
func TestForce_Container_HookAndSIGTERMBeforeDeadline(t *testing.T) {
	s := newMachineFixture(t, 1, "drain: {maxDuration: 40s, completionReserve: 5s, nodeJoinTimeout: 1s, volumeDetachTimeout: 1s}")
	s.deploy("stateful", 1, func(d *appsv1.Deployment) {
		s.runs("trap '"+recordCommand("term", "log")+"; exit 0' TERM; "+sleepForever, 15,
			preStop(recordCommand("hook", "log")+"; sleep 2; "+recordCommand("hooked", "log")))(&d.Spec.Template.Spec)
	})
	s.pdb("stateful", "stateful", 0)
	pod := s.podsOn(s.instances[0])[0]
	r := s.drain(s.instances[0])
	require.Equal(t, termination.StatusForced, r.Status, "%+v", r)
	s.requireForced(r, pod, r.Deadline.Add(-15*time.Second))
	words, times := s.recorded("log")
	require.Equal(t, []string{"hook", "hooked", "term"}, words)
	require.True(t, times[2].Before(r.Deadline), "signaled at %v, deadline %v", times[2], r.Deadline)
	require.NotZero(t, r.pod(t, pod.Name).GoneAt)
	require.NotContains(t, r.pod(t, pod.Name).Reason, "still stopping")
}

func TestDrain_EndedContainerWithFinalizer_NotWaitedFor(t *testing.T) {
	s := newMachineFixture(t, 1)
	s.runPodOn(s.instances[0], "kept", func(p *corev1.Pod) {
		p.Finalizers = []string{"quiesce.test/never"}
		s.runs("trap 'sleep 2; "+recordCommand("ended", "log")+"; exit 0' TERM; "+recordCommand("trap", "ready")+"; "+sleepForever, 30)(&p.Spec)
	})
	t.Cleanup(func() { s.removeFinalizers("kept") })
	s.awaitRecord("ready")
	r := s.drain(s.instances[0])
	require.Equal(t, termination.StatusPartial, r.Status, "%+v", r)
	require.Equal(t, drain.Remained, r.pod(t, "kept").Outcome)
	require.Equal(t, "its containers have ended; kept by quiesce.test/never", r.pod(t, "kept").Reason)
	require.Less(t, r.FinishedAt, r.Deadline.Add(-time.Minute))
	words, times := s.recorded("log")
	require.Equal(t, []string{"ended"}, words)
	require.True(t, times[0].Before(r.FinishedAt))
}
