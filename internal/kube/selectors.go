package kube

import (
	"context"
	"fmt"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/internal/escort"
)

// controller is the part of a ReplicaSet or StatefulSet that an escort needs.
type controller struct {
	Metadata objectMeta
	Spec     struct {
		Replicas int // the API server has filled in the default
		Selector *metav1.LabelSelector
	}
}

type service struct {
	Metadata objectMeta
	Spec     struct{ Selector map[string]string }
}

type networkPolicy struct {
	Metadata objectMeta
	Spec     struct {
		PodSelector *metav1.LabelSelector
		Ingress     []struct{ From []policyPeer }
		Egress      []struct{ To []policyPeer }
	}
}

type policyPeer struct{ PodSelector *metav1.LabelSelector }

// Selectors returns the objects that select a pod with this namespace, these labels and this owner; other fields of the pod
// do not count. It does not search other namespaces for network policies that name the labels: that would list the whole
// cluster's.
func (c *Client) Selectors(ctx context.Context, p escort.Pod) (found escort.Selectors, err error) {
	if err := c.addOwner(ctx, p, &found); err != nil {
		return escort.Selectors{}, err
	}
	if found.Services, err = c.servicesOf(ctx, p); err != nil {
		return escort.Selectors{}, err
	}
	if found.PDBs, err = c.pdbsOf(ctx, p); err != nil {
		return escort.Selectors{}, err
	}
	found.Policies, err = c.policiesOf(ctx, p)
	return found, err
}

// addOwner sets the owner's selector and replicas, if the owner has them.
func (c *Client) addOwner(ctx context.Context, p escort.Pod, found *escort.Selectors) error {
	owner, err := c.controllerOf(ctx, p)
	if owner == nil || err != nil {
		return err
	}
	selector := toSelector(owner.Metadata.Name, owner.Spec.Selector)
	found.Owner, found.Replicas = &selector, owner.Spec.Replicas
	return nil
}

// controllerOf returns the pod's owner; nil if the pod has none, if the owner has another kind, or if it is gone.
func (c *Client) controllerOf(ctx context.Context, p escort.Pod) (*controller, error) {
	kind, known := map[string]resource{"ReplicaSet": replicaSetResource, "StatefulSet": statefulSetResource}[p.Owner.Kind]
	if !known {
		return nil, nil
	}
	if !isUID(p.Owner.UID) {
		return nil, nil
	}
	found := &controller{}
	err := c.read(ctx, kind, p.Namespace, p.Owner.Name, found)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get %s %s/%s: %w", p.Owner.Kind, p.Namespace, p.Owner.Name, err)
	}
	if found.Metadata.UID != p.Owner.UID {
		return nil, nil
	}
	return found, nil
}

// servicesOf returns the Services that select the pod. A Service without a selector selects nothing
// (https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors).
func (c *Client) servicesOf(ctx context.Context, p escort.Pod) (found []escort.Selector, err error) {
	err = eachItem(ctx, c, serviceResource, p.Namespace, func(s service) {
		if exact := s.Spec.Selector; len(exact) > 0 && labels.SelectorFromSet(exact).Matches(labels.Set(p.Labels)) {
			found = append(found, escort.Selector{Name: s.Metadata.Name, Labels: exact})
		}
	})
	return found, err
}

func (c *Client) pdbsOf(ctx context.Context, p escort.Pod) (found []escort.PDB, err error) {
	request := c.policy.Get().Namespace(p.Namespace).Resource("poddisruptionbudgets")
	err = eachObject(ctx, request, func(object []byte) error {
		var pdb policyv1.PodDisruptionBudget
		if err := decodeKept(object, pdbFields, &pdb); err != nil {
			return err
		}
		if selects(pdb.Spec.Selector, p) {
			found = append(found, escort.PDB{
				Selector:           toSelector(pdb.Name, pdb.Spec.Selector),
				DisruptionsAllowed: int(pdb.Status.DisruptionsAllowed), NeverReason: NeverReason(&pdb),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list poddisruptionbudgets of namespace %s: %w", p.Namespace, err)
	}
	return found, nil
}

func (c *Client) policiesOf(ctx context.Context, p escort.Pod) (found []escort.Selector, err error) {
	err = eachItem(ctx, c, networkPolicyResource, p.Namespace, func(policy networkPolicy) {
		for _, selector := range policy.podSelectors() {
			if selects(selector, p) || matchesMissingLabel(selector) {
				found = append(found, toSelector(policy.Metadata.Name, selector))
			}
		}
	})
	return found, err
}

// podSelectors returns the selectors of the pods that the policy applies to, and of the peers that it allows. A peer with a
// namespace selector counts as one of this namespace: that may be one selector too many, and never one too few.
func (n networkPolicy) podSelectors() []*metav1.LabelSelector {
	all := []*metav1.LabelSelector{n.Spec.PodSelector}
	for _, rule := range n.Spec.Ingress {
		all = append(all, peerSelectors(rule.From)...)
	}
	for _, rule := range n.Spec.Egress {
		all = append(all, peerSelectors(rule.To)...)
	}
	return all
}

func peerSelectors(peers []policyPeer) (selectors []*metav1.LabelSelector) {
	for _, peer := range peers {
		selectors = append(selectors, peer.PodSelector)
	}
	return selectors
}

// selects reports whether the selector selects the pod. A nil selector selects nothing, an empty one everything. The server
// ignores an invalid one too.
func selects(s *metav1.LabelSelector, p escort.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(p.Labels))
}

// matchesMissingLabel reports whether the selector may select a pod because a label is missing: a pod that loses a label may
// match it.
func matchesMissingLabel(s *metav1.LabelSelector) bool {
	if s == nil {
		return false
	}
	for _, e := range s.MatchExpressions {
		if e.Operator == metav1.LabelSelectorOpNotIn || e.Operator == metav1.LabelSelectorOpDoesNotExist {
			return true
		}
	}
	return false
}

// toSelector returns the selector as escorts know it. A nil one selects nothing.
func toSelector(name string, s *metav1.LabelSelector) escort.Selector {
	if s == nil {
		return escort.Selector{Name: name}
	}
	selector := escort.Selector{Name: name, Labels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		selector.Keys = append(selector.Keys, e.Key)
	}
	return selector
}
