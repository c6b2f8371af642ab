package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Inspect returns the pod as it is now; nil if it is gone or another pod has its name.
func (c *Client) Inspect(ctx context.Context, ref drain.Ref) (*escort.Pod, error) {
	found := &corev1.Pod{}
	err := c.core.Get().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).Timeout(callTimeout).Do(ctx).Into(found)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get pod %s: %w", ref, err)
	}
	if string(found.UID) != ref.UID {
		return nil, nil
	}
	return ToEscortPod(found), nil
}

// PatchLabels changes labels of exactly this pod; a nil value removes one. It does not change another pod of the same name:
// the patch has the UID, and the server rejects it as invalid if the UID differs.
func (c *Client) PatchLabels(ctx context.Context, ref drain.Ref, labels map[string]*string) error {
	metadata := map[string]any{"uid": ref.UID}
	if len(labels) > 0 { // null would remove all labels
		metadata["labels"] = labels
	}
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	err = c.core.Patch(types.MergePatchType).Namespace(ref.Namespace).Resource("pods").Name(ref.Name).
		Body(body).Timeout(callTimeout).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("patch pod %s: %w", ref, err)
	}
	return nil
}

// ToEscortPod returns the pod as drains and escorts see it.
func ToEscortPod(p *corev1.Pod) *escort.Pod {
	return &escort.Pod{
		Pod: toPod(p), Node: p.Spec.NodeName, IP: p.Status.PodIP, Ready: isReady(p), Owner: ownerOf(p), Containers: containersOf(p),
		NodeVolume: nodeVolume(p),
	}
}

func isReady(p *corev1.Pod) bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// appsKinds are kinds of the API group apps that create pods. In core there are none of these names, whatever an owner reference
// says.
var appsKinds = []string{"ReplicaSet", "StatefulSet", "DaemonSet"}

// ownerOf returns the pod's controller. Its kind has the API group unless that is apps or core: OpenKruise's StatefulSet, for
// example, is another kind than that of apps. An owner whose name or UID no object can have is none.
func ownerOf(p *corev1.Pod) escort.Owner {
	owner := controllerRef(p)
	if owner.Name == "" {
		return escort.Owner{}
	}
	kind := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind()
	switch {
	case kind.Group == "apps":
		kind.Group = ""
	case kind.Group == "" && slices.Contains(appsKinds, kind.Kind):
		kind.Group = "core"
	}
	return escort.Owner{Kind: kind.String(), Name: owner.Name, UID: string(owner.UID)}
}

// containersOf returns the containers, and then the sidecars, which are init containers that keep running
// (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/).
func containersOf(p *corev1.Pod) []escort.Container {
	var all []escort.Container
	for _, c := range p.Spec.Containers[:min(len(p.Spec.Containers), maxContainers)] {
		all = append(all, toContainer(c, p.Status.ContainerStatuses))
	}
	for _, c := range p.Spec.InitContainers[:min(len(p.Spec.InitContainers), maxContainers)] {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, toContainer(c, p.Status.InitContainerStatuses))
		}
	}
	return all
}

func toContainer(c corev1.Container, statuses []corev1.ContainerStatus) escort.Container {
	container := escort.Container{Name: c.Name, Image: strings.Clone(c.Image[:min(len(c.Image), maxImage)]), Process: processOf(c.Name, statuses), PreStop: preStop(c.Lifecycle)}
	for _, p := range c.Ports[:min(len(c.Ports), maxPorts)] {
		container.Ports = append(container.Ports, escort.Port{Name: p.Name, Number: int(p.ContainerPort)})
	}
	if c.LivenessProbe != nil {
		container.Liveness = toProbe(c.LivenessProbe, container.Ports)
	}
	return container
}

// processOf returns the ID of the container's process, as the kubelet has it from the container runtime.
func processOf(container string, statuses []corev1.ContainerStatus) string {
	for i := range statuses {
		if s := &statuses[i]; s.Name == container && s.State.Running != nil && len(s.ContainerID) <= maxProcess {
			return strings.Clone(s.ContainerID)
		}
	}
	return ""
}

const (
	// maxProcess bounds the ID of a container, in bytes. A runtime's name and a hash in hexadecimal digits have less than a hundred.
	maxProcess = 200
	// maxContainers bounds the containers that are kept of a pod, and likewise its sidecars. Poolers and databases have a few.
	maxContainers = 16
	// maxImage bounds the name of an image that is kept, in bytes. Registries allow some 400. The API server accepts a megabyte.
	maxImage = 1 << 10
	// maxPorts bounds the ports that are kept of a container. Poolers and databases have a few.
	maxPorts = 32
	// maxCommand bounds the command of a preStop hook or a probe that is kept, in bytes. Scripts have some hundred. The API server accepts a
	// megabyte, and thousands of pods are listed at once.
	maxCommand = 16 << 10
)

// boundedCommand returns the beginning of the command: what a hook sleeps for stands there, and what a probe looks at.
func boundedCommand(command []string) (kept []string) {
	for left := maxCommand; len(command) > 0 && left > 0; command = command[1:] {
		kept = append(kept, strings.Clone(command[0][:min(len(command[0]), left)]))
		left -= len(command[0]) + 1
	}
	return kept
}

func preStop(l *corev1.Lifecycle) []string {
	switch {
	case l == nil || l.PreStop == nil:
		return nil
	case l.PreStop.Exec != nil:
		return boundedCommand(l.PreStop.Exec.Command)
	case l.PreStop.Sleep != nil:
		return []string{"sleep", strconv.FormatInt(l.PreStop.Sleep.Seconds, 10)}
	case l.PreStop.HTTPGet != nil:
		return boundedCommand([]string{"httpGet", l.PreStop.HTTPGet.Path})
	}
	return nil
}

// toProbe returns the part of a liveness probe that an escort needs. The API server has filled in the defaults.
func toProbe(p *corev1.Probe, ports []escort.Port) escort.LivenessProbe {
	probe := escort.LivenessProbe{Window: seconds(int64(p.PeriodSeconds) * int64(p.FailureThreshold))}
	switch {
	case p.TCPSocket != nil:
		probe.Port = portNumber(p.TCPSocket.Port, ports)
	case p.HTTPGet != nil:
		probe.Port = portNumber(p.HTTPGet.Port, ports)
	case p.GRPC != nil:
		probe.Port = int(p.GRPC.Port)
	case p.Exec != nil:
		probe.Command = boundedCommand(p.Exec.Command)
	}
	return probe
}

// portNumber returns the number of a port that may have a name; zero if no port of the container has that name.
func portNumber(port intstr.IntOrString, ports []escort.Port) int {
	if port.Type == intstr.Int {
		return port.IntValue()
	}
	for _, p := range ports {
		if p.Name == port.StrVal {
			return p.Number
		}
	}
	return 0
}
