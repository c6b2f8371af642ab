package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"quiesce/internal/drain"
)

// zoneKeys are labels of nodes that have the zone. Volumes name one of them: drivers write their own, and the scheduler knows all
// (https://github.com/kubernetes-sigs/aws-ebs-csi-driver/blob/master/docs/parameters.md, topology).
var zoneKeys = []string{corev1.LabelTopologyZone, "topology.ebs.csi.aws.com/zone"}

// zonalProvisioners make volumes of EBS, which stay in their zone.
var zonalProvisioners = []string{"ebs.csi.aws.com", "kubernetes.io/aws-ebs", "ebs.csi.eks.amazonaws.com"}

// VolumeZones returns the zones that the volume of a claim cannot leave, when it is in use in the zone here; none: it is in no zone. The
// claim says who made the volume. Only where that says nothing, the volume is read, which needs a permission of its own.
func (c *Client) VolumeZones(ctx context.Context, namespace, claim, here string) (zones []string, err error) {
	var object struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct{ VolumeName string }
	}
	found, err := c.readIfExists(ctx, claimResource, namespace, claim, &object)
	if !found || err != nil {
		return nil, err
	}
	provisioner := object.Metadata.Annotations[provisionerAnnotation]
	switch zonal := slices.Contains(zonalProvisioners, provisioner); {
	case zonal && here != "":
		return []string{here}, nil
	case !zonal && slices.Contains(attachableProvisioners, provisioner), object.Spec.VolumeName == "":
		return nil, nil
	}
	affinity, err := c.volumeAffinity(ctx, object.Spec.VolumeName)
	if err != nil {
		return nil, fmt.Errorf("get the volume of claim %s/%s: %w", namespace, claim, withPermission(err))
	}
	return zonesOf(affinity), nil
}

// volumeAffinity returns on which nodes a volume can be; nil: on all.
func (c *Client) volumeAffinity(ctx context.Context, name string) (*corev1.VolumeNodeAffinity, error) {
	if !isName(name) {
		return nil, fmt.Errorf("%q is not the name of a volume", drain.Short(name))
	}
	body, err := stream(ctx, c.core.Get().AbsPath("/api/v1", "persistentvolumes", name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	var volume struct {
		Spec struct{ NodeAffinity *corev1.VolumeNodeAffinity }
	}
	err = json.NewDecoder(&limitedReader{body, maxObjectBytes}).Decode(&volume)
	return volume.Spec.NodeAffinity, err
}

// maxZones bounds the zones of a volume that are kept. Regions have at most six.
const maxZones = 16

// zonesOf returns the zones of a volume; none: it may be elsewhere too. One of several terms must hold, and each of its expressions.
func zonesOf(affinity *corev1.VolumeNodeAffinity) (zones []string) {
	if affinity == nil || affinity.Required == nil {
		return nil
	}
	for _, term := range affinity.Required.NodeSelectorTerms {
		i := slices.IndexFunc(term.MatchExpressions, func(e corev1.NodeSelectorRequirement) bool {
			return slices.Contains(zoneKeys, e.Key) && e.Operator == corev1.NodeSelectorOpIn
		})
		if i < 0 {
			return nil
		}
		zones = append(zones, term.MatchExpressions[i].Values...)
	}
	slices.Sort(zones)
	zones = slices.Compact(zones)
	return zones[:min(len(zones), maxZones)]
}

// OtherNodeStays reports whether one of the zones has a node that is ready, takes pods and stays, beside the one of this name. Whether the
// pod fits there is not known: that is up to the scheduler.
func (c *Client) OtherNodeStays(ctx context.Context, zones []string, beside string) (stays bool, err error) {
	inZones, err := labels.NewRequirement(corev1.LabelTopologyZone, selection.In, zones)
	if err != nil {
		return false, fmt.Errorf("find nodes of zones %.200s: %w", strings.Join(zones, ", "), err)
	}
	options := metav1.ListOptions{LabelSelector: labels.NewSelector().Add(*inZones).String(), ResourceVersion: fromWatchCache}
	err = c.eachNode(ctx, options, func(node *corev1.Node) (done bool) {
		stays = node.Name != beside && TakesPods(node)
		return stays
	})
	if err != nil {
		return false, fmt.Errorf("find nodes of zones %s: %w", strings.Join(zones, ", "), withPermission(err))
	}
	return stays, nil
}

// TakesPods reports whether new pods may run on the node, apart from its taints: it is ready and stays. A node of Fargate has one pod.
func TakesPods(node *corev1.Node) bool {
	return WhyLeaving(node) == "" && node.Labels["eks.amazonaws.com/compute-type"] != "fargate" &&
		slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
}
