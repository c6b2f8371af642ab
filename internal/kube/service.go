package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// Services returns the Services of a namespace with their ready endpoints, the ones that a program writes itself included.
func (c *Client) Services(ctx context.Context, namespace string) ([]escort.Service, error) {
	type addressed struct {
		Metadata objectMeta
		Spec     struct{ ClusterIPs []string }
	}
	var found []escort.Service
	err := eachItem(ctx, c, serviceResource, namespace, func(s addressed) {
		service := escort.Service{Namespace: namespace, Name: s.Metadata.Name}
		for _, address := range s.Spec.ClusterIPs {
			if address != corev1.ClusterIPNone {
				service.Addresses = append(service.Addresses, address)
			}
		}
		found = append(found, service)
	})
	if err != nil {
		return nil, withPermission(err)
	}
	type slice struct {
		Metadata  objectMeta
		Endpoints []struct {
			endpoint
			Addresses []string
		}
	}
	ready := map[string][]string{}
	err = eachItem(ctx, c, endpointSliceResource, namespace, func(s slice) {
		name := s.Metadata.Labels[serviceLabel]
		for _, e := range s.Endpoints {
			if e.isReady() {
				ready[name] = append(ready[name], e.Addresses...)
			}
		}
	})
	if err != nil {
		return nil, withPermission(err)
	}
	for i := range found {
		found[i].Ready = ready[found[i].Name]
	}
	return found, nil
}

// PodsMatching returns the pods of a namespace that a function chooses. Only those are kept.
func (c *Client) PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) ([]escort.Pod, error) {
	if !isName(namespace) {
		return nil, fmt.Errorf("list pods: %q is not the name of a namespace", drain.Short(namespace))
	}
	var all boundedPods
	err := eachObject(ctx, c.core.Get().Namespace(namespace).Resource("pods"), func(object []byte) error {
		var seen, pod corev1.Pod
		if err := decodeKept(object, databasePodFields, &seen); err != nil || !match(toPod(&seen)) {
			return err
		}
		if err := pod.Unmarshal(object); err != nil {
			return err
		}
		return all.add(&pod, len(object))
	})
	if err != nil {
		return nil, fmt.Errorf("list pods of namespace %s: %w", namespace, withPermission(err))
	}
	return all.pods, nil
}
