package kube

import (
	"context"
	"fmt"
	"quiesce/internal/escort"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// controller is what of a ReplicaSet or StatefulSet matters.
type controller struct {
	Metadata objectMeta
	Spec     struct {
		Replicas int // the API server has put in the default
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

// Around finds what selects a pod with this namespace, these labels and this owner; nothing else of it matters. Network policies
// of other namespaces that name its labels are not looked for: that would take all of the cluster's.
func (c *Client) Selectors(ctx context.Context, p escort.Pod) (around escort.Selectors, err error) {
	if err := c.addOwner(ctx, p, &around); err != nil {
		return escort.Selectors{}, err
	}
	if around.Services, err = c.servicesOf(ctx, p); err != nil {
		return escort.Selectors{}, err
	}
	if around.PDBs, err = c.pdbsOf(ctx, p); err != nil {
		return escort.Selectors{}, err
	}
	around.Policies, err = c.policiesOf(ctx, p)
	return around, err
}

func (c *Client) addOwner(ctx context.Context, p escort.Pod, around *escort.Selectors) error {
	owner, err := c.controllerOf(ctx, p)
	if owner == nil || err != nil {
		return err
	}
	selecting := toSelector(owner.Metadata.Name, owner.Spec.Selector)
	around.Owner, around.Replicas = &selecting, owner.Spec.Replicas
	return nil
}

// controllerOf reads the pod's owner; nil: nobody owns it, or something of another kind, or what did is gone.
func (c *Client) controllerOf(ctx context.Context, p escort.Pod) (*controller, error) {
	kind, known := map[string]resource{"ReplicaSet": replicaSetResource, "StatefulSet": statefulSetResource}[p.Owner.Kind]
	if !known {
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

// servicesOf: a Service without a selector selects nothing
// (https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors).
func (c *Client) servicesOf(ctx context.Context, p escort.Pod) (selecting []escort.Selector, err error) {
	all, err := list[service](ctx, c, serviceResource, p.Namespace, "")
	for _, s := range all {
		if exact := s.Spec.Selector; len(exact) > 0 && labels.SelectorFromSet(exact).Matches(labels.Set(p.Labels)) {
			selecting = append(selecting, escort.Selector{Name: s.Metadata.Name, Labels: exact})
		}
	}
	return selecting, err
}

func (c *Client) pdbsOf(ctx context.Context, p escort.Pod) (selecting []escort.PDB, err error) {
	all, err := list[policyv1.PodDisruptionBudget](ctx, c, pdbResource, p.Namespace, "")
	for i := range all {
		b := &all[i]
		if selects(b.Spec.Selector, p) {
			selecting = append(selecting, escort.PDB{
				Selector: toSelector(b.Name, b.Spec.Selector), DisruptionsAllowed: int(b.Status.DisruptionsAllowed), NeverReason: neverReason(b),
			})
		}
	}
	return selecting, err
}

func (c *Client) policiesOf(ctx context.Context, p escort.Pod) (selecting []escort.Selector, err error) {
	all, err := list[networkPolicy](ctx, c, networkPolicyResource, p.Namespace, "")
	for _, policy := range all {
		for _, selector := range policy.podSelectors() {
			if selects(selector, p) || matchesMissingLabel(selector) {
				selecting = append(selecting, toSelector(policy.Metadata.Name, selector))
			}
		}
	}
	return selecting, err
}

// podSelectors are those of the pods that the policy applies to, and of those that it lets in or out. A peer that is selected by
// its namespace too counts as one of this namespace: that may be one selector too many, and never one too few.
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

// selects: a selector that is nil selects nothing, an empty one everything; one that cannot be read is ignored by the server too.
func selects(s *metav1.LabelSelector, p escort.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(p.Labels))
}

// matchesMissingLabel: such a selector may come to select a pod that loses a label.
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

func toSelector(name string, s *metav1.LabelSelector) escort.Selector {
	selecting := escort.Selector{Name: name, Labels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		selecting.Keys = append(selecting.Keys, e.Key)
	}
	return selecting
}
