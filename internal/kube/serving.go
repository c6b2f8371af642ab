package kube

import (
	"context"

	"quiesce/internal/drain"
)

// serviceLabel is on an EndpointSlice; its value is the name of the Service
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetesioservice-name).
const serviceLabel = "kubernetes.io/service-name"

type endpointSlice struct {
	Metadata  objectMeta
	Endpoints []endpoint
}

// endpoint is one endpoint; nil conditions are unknown
// (https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions).
type endpoint struct {
	Conditions struct{ Ready, Serving, Terminating *bool }
	TargetRef  objectMeta
}

// Serving reports whether any Service still sends new connections to the pod. That is so if the pod is a ready endpoint, or
// if it is a serving and terminating one and the Service has no ready endpoint
// (https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints).
func (c *Client) Serving(ctx context.Context, ref drain.Ref) (bool, error) {
	services := map[string]*endpointState{}
	err := eachItem(ctx, c, endpointSliceResource, ref.Namespace, func(slice endpointSlice) {
		name := slice.Metadata.Labels[serviceLabel]
		if services[name] == nil {
			services[name] = &endpointState{}
		}
		services[name].add(slice.Endpoints, ref.UID)
	})
	if err != nil {
		return false, err
	}
	for _, s := range services {
		if s.receivesTraffic() {
			return true, nil
		}
	}
	return false, nil
}

// endpointState is the part of a Service's endpoints that decides whether the Service sends connections to one pod.
type endpointState struct{ anyReady, podReady, podLastResort bool }

func (b *endpointState) add(endpoints []endpoint, uid string) {
	for _, e := range endpoints {
		ofPod := e.TargetRef.UID == uid
		b.anyReady = b.anyReady || e.isReady()
		b.podReady = b.podReady || ofPod && e.isReady()
		b.podLastResort = b.podLastResort || ofPod && e.isLastResort()
	}
}

func (b *endpointState) receivesTraffic() bool { return b.podReady || !b.anyReady && b.podLastResort }

// isReady reports whether the endpoint is ready. An unknown condition counts as true.
func (e endpoint) isReady() bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }

// isLastResort reports whether the endpoint gets connections if the Service has no ready one.
func (e endpoint) isLastResort() bool {
	return isTrue(e.Conditions.Serving) && isTrue(e.Conditions.Terminating)
}

func isTrue(condition *bool) bool { return condition != nil && *condition }
