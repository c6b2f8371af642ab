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
	services, err := list[addressed](ctx, c, serviceResource, namespace)
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
	slices, err := list[slice](ctx, c, endpointSliceResource, namespace)
	if err != nil {
		return nil, withPermission(err)
	}
	ready := map[string][]string{}
	for _, s := range slices {
		name := s.Metadata.Labels[serviceLabel]
		for _, e := range s.Endpoints {
			if e.isReady() {
				ready[name] = append(ready[name], e.Addresses...)
			}
		}
	}
	var found []escort.Service
	for _, s := range services {
		service := escort.Service{Namespace: namespace, Name: s.Metadata.Name, Ready: ready[s.Metadata.Name]}
		for _, address := range s.Spec.ClusterIPs {
			if address != corev1.ClusterIPNone {
				service.Addresses = append(service.Addresses, address)
			}
		}
		found = append(found, service)
	}
	return found, nil
}

// PodsMatching returns the pods of a namespace that a function chooses. Only those are kept.
func (c *Client) PodsMatching(ctx context.Context, namespace string, match func(drain.Pod) bool) (pods []escort.Pod, err error) {
	if !isName(namespace) {
		return nil, fmt.Errorf("list pods: %q is not the name of a namespace", drain.Short(namespace))
	}
	err = eachObject(ctx, c.core.Get().Namespace(namespace).Resource("pods"), func(object []byte) error {
		var seen, pod corev1.Pod
		if err := decodeKept(object, databasePodFields, &seen); err != nil || !match(toPod(&seen)) {
			return err
		}
		if len(pods) == maxListedPods {
			return errTooManyPods
		}
		if err := pod.Unmarshal(object); err != nil {
			return err
		}
		pods = append(pods, *ToEscortPod(&pod))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pods of namespace %s: %w", namespace, withPermission(err))
	}
	return pods, nil
}
