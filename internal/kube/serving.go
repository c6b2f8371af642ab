package kube

import (
	"context"

	"quiesce/internal/drain"
)

// serviceLabel names an EndpointSlice's Service
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetesioservice-name).
const serviceLabel = "kubernetes.io/service-name"

type endpointSlice struct {
	Metadata  objectMeta
	Endpoints []endpoint
}

// endpoint has conditions that may be unknown
// (https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions).
type endpoint struct {
	Conditions struct{ Ready, Serving, Terminating *bool }
	TargetRef  objectMeta
}

// Serving tells whether any Service still sends new connections to the pod: where it is a ready endpoint, or one that stops and
// no other is left that does not (https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints).
func (c *Client) Serving(ctx context.Context, ref drain.Ref) (bool, error) {
	all, err := list[endpointSlice](ctx, c, endpointSliceResource, ref.Namespace, "")
	if err != nil {
		return false, err
	}
	services := map[string]*endpointState{}
	for _, slice := range all {
		name := slice.Metadata.Labels[serviceLabel]
		if services[name] == nil {
			services[name] = &endpointState{}
		}
		services[name].add(slice.Endpoints, ref.UID)
	}
	for _, s := range services {
		if s.receivesTraffic() {
			return true, nil
		}
	}
	return false, nil
}

// endpointState is what of a Service's endpoints decides whether it sends to a pod.
type endpointState struct{ anyReady, podReady, podLastResort bool }

func (b *endpointState) add(endpoints []endpoint, uid string) {
	for _, e := range endpoints {
		its := e.TargetRef.UID == uid
		b.anyReady = b.anyReady || e.isReady()
		b.podReady = b.podReady || its && e.isReady()
		b.podLastResort = b.podLastResort || its && e.isLastResort()
	}
}

func (b *endpointState) receivesTraffic() bool { return b.podReady || !b.anyReady && b.podLastResort }

// isReady: a condition that is not known is to be taken for true.
func (e endpoint) isReady() bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }

func (e endpoint) isLastResort() bool {
	return isTrue(e.Conditions.Serving) && isTrue(e.Conditions.Terminating)
}

func isTrue(condition *bool) bool { return condition != nil && *condition }
