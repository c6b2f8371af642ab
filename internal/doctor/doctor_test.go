package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quiesce/internal/asg"
	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/postgres"
	"quiesce/internal/termination"
)

const waits = "sleep 5; kill -INT 1; while kill -0 1; do sleep 1; done"

// world is a snapshot that a case changes. It begins without a fault: two zones with two nodes each, one group per zone, two poolers, an
// application of three pods, and a database of two members.
type world struct{ Snapshot }

func healthy(t *testing.T) *world {
	t.Helper()
	settings, err := config.Parse([]byte("{cluster: prod, autoScalingGroups: ['workers-*'], mode: drain}"), func(string) string { return "" })
	require.NoError(t, err)
	w := &world{Snapshot{Now: time.Now(), Config: settings, Configured: true, AWS: true, Instances: map[string]termination.EC2Instance{}}}
	w.Install.Namespace = true
	w.Function = &Function{Name: "quiesce-prod", Invoked: "quiesce-prod:live"}
	for _, zone := range []string{"a", "b"} {
		g := asg.Settings{Group: termination.Group{Name: "workers-" + zone, Tags: map[string]string{}}, Zones: []string{"eu-west-1" + zone}, MinHealthy: 100}
		g.Hooks = []asg.NamedHook{{Name: "quiesce", Hook: termination.Hook{HeartbeatTimeout: 20 * time.Minute, DefaultResult: termination.Continue}}}
		for _, n := range []string{"1", "2"} {
			w.addNode(zone+n, "eu-west-1"+zone)
			g.Instances = append(g.Instances, termination.Instance{ID: "i-" + zone + n})
		}
		w.Groups = append(w.Groups, g)
	}
	for i, n := range []string{"a1", "b1"} {
		p := w.addPod("db", "pgbouncer", i, n, map[string]string{"app.kubernetes.io/name": "pgbouncer"})
		p.Spec.TerminationGracePeriodSeconds = new(int64(300))
		p.Spec.Containers[0] = corev1.Container{Name: "pgbouncer", Image: "edoburu/pgbouncer:v1.24.1-p1", Lifecycle: &corev1.Lifecycle{
			PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", waits}}},
		}}
	}
	for i, n := range []string{"a1", "a2", "b2"} {
		w.addPod("shop", "web", i, n, map[string]string{"app": "web"})
	}
	w.addPDB("shop", "web", map[string]string{"app": "web"})
	w.Databases = []Database{{Facts: postgres.Facts{
		Identity: postgres.Identity{Operator: postgres.Zalando, Namespace: "db", Cluster: "demo"}, Leader: "demo-0",
		Members: []postgres.Member{member("demo-0", "a1"), member("demo-1", "b1")},
	}}}
	return w
}

func member(name, node string) postgres.Member {
	return postgres.Member{Ref: drain.Ref{Namespace: "db", Name: name}, Node: node, Ready: true}
}

func (w *world) addNode(name, zone string) *corev1.Node {
	room := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("16Gi"), "pods": resource.MustParse("20")}
	w.Nodes = append(w.Nodes, corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone, corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{ProviderID: "aws:///" + zone + "/i-" + name},
		Status:     corev1.NodeStatus{Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	})
	w.Instances["i-"+name] = termination.EC2Instance{}
	return &w.Nodes[len(w.Nodes)-1]
}

// addPod adds the pod of this number of a Deployment.
func (w *world) addPod(namespace, deployment string, n int, node string, labels map[string]string) *corev1.Pod {
	labels = maps.Clone(labels)
	labels["pod-template-hash"] = "5d"
	name := fmt.Sprintf("%s-5d-%d", deployment, n)
	w.Pods = append(w.Pods, corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u", Labels: labels, OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: deployment + "-5d", UID: "r", Controller: new(true),
		}}},
		Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	})
	return &w.Pods[len(w.Pods)-1]
}

func (w *world) addPDB(namespace, name string, labels map[string]string) *policyv1.PodDisruptionBudget {
	one := intstr.FromInt32(1)
	w.PDBs = append(w.PDBs, policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}, UnhealthyPodEvictionPolicy: new(policyv1.AlwaysAllow),
		},
		Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, ExpectedPods: 3, DesiredHealthy: 2, CurrentHealthy: 3},
	})
	return &w.PDBs[len(w.PDBs)-1]
}

// addVolume adds a volume that only nodes with this label can use, and gives it to a pod.
func (w *world) addVolume(name, key, value string, p *corev1.Pod) {
	w.Volumes = append(w.Volumes, corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: p.Namespace, Name: name},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}},
			}}}},
		},
	})
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
	}})
}

// addConfig gives the poolers a configuration.
func (w *world) addConfig(text string) {
	w.ConfigMaps = []corev1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Namespace: "db", Name: "ini"}, Data: map[string]string{"pgbouncer.ini": text}}}
	for i := range w.Pods {
		if w.Pods[i].Namespace == "db" {
			w.Pods[i].Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "ini"},
			}}}}
		}
	}
}

func (w *world) addWebhook(service string, resources ...string) *Webhook {
	w.Webhooks = append(w.Webhooks, Webhook{Name: "guard", FailClosed: true, Service: service, Rules: []admissionv1.RuleWithOperations{{
		Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{""}, Resources: resources},
	}}})
	w.Services = append(w.Services, corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "guard"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "guard"}},
	})
	return &w.Webhooks[len(w.Webhooks)-1]
}

// addUnfinished adds a Lease that nobody holds.
func (w *world) addUnfinished(lease string) *kube.Unfinished {
	w.Install.Unfinished = []kube.Unfinished{{LeaseInfo: termination.LeaseInfo{Name: lease}}}
	return &w.Install.Unfinished[0]
}

func (w *world) database() *Database { return &w.Databases[0] }

// lines returns findings in short: severity, where and what.
func lines(r Report) (found []string) {
	for _, f := range r.Findings {
		found = append(found, fmt.Sprintf("%s %s: %s", f.Severity, f.Where, f.What))
	}
	return found
}

func TestExamine_HealthyCluster_FindsNothing(t *testing.T) {
	require.Empty(t, lines(Examine(healthy(t).Snapshot, "")))
}

func TestExamine_OneFault_FindsThatOne(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range slices.Concat(groupCases, nodeCases, workloadCases, poolerCases, databaseCases, quiesceCases) {
		w := healthy(t)
		c.fault(w)
		r := Examine(w.Snapshot, "")
		require.Equal(t, c.want, lines(r), c.name)
		for _, f := range r.Findings {
			seen[f.Check] = true
			require.NotEmpty(t, f.Cost, "%s: %s", c.name, f.What)
			require.NotEmpty(t, f.Fix, "%s: %s", c.name, f.What)
		}
	}
	for _, name := range Names() {
		require.True(t, seen[name], "no case makes the check %s find something", name)
	}
}

// testCase is a fault, and the findings that it causes.
type testCase struct {
	name  string
	fault func(*world)
	want  []string
}

func hooks(all ...asg.NamedHook) []asg.NamedHook { return all }

func hook(name string, result termination.Result) asg.NamedHook {
	return asg.NamedHook{Name: name, Hook: termination.Hook{HeartbeatTimeout: 20 * time.Minute, DefaultResult: result}}
}

var groupCases = []testCase{
	{"group of one zone without a hook", func(w *world) { w.Groups[0].Hooks = nil }, []string{"warning group workers-a: has no lifecycle hook"}},
	{"group of two zones without a hook", func(w *world) { w.Groups[0].Hooks, w.Groups[0].Zones = nil, []string{"z1", "z2"} },
		[]string{"critical group workers-a: spans z1 and z2, may rebalance, and has no lifecycle hook"}},
	{"group of two zones that cannot rebalance", func(w *world) {
		w.Groups[0].Hooks, w.Groups[0].Zones, w.Groups[0].Suspended = nil, []string{"z1", "z2"}, []string{"AZRebalance"}
	}, []string{"warning group workers-a: has no lifecycle hook"}},
	{"hook of EKS only", func(w *world) { w.Groups[0].Hooks = hooks(hook(managedHook, termination.Continue)) },
		[]string{"warning group workers-a: only EKS answers its hook, for 15 minutes at most and whatever PDBs say"}},
	{"hook of another tool only", func(w *world) { w.Groups[0].Hooks = hooks(hook("other", termination.Continue)) },
		[]string{"warning group workers-a: has no hook of quiesce, and it is not known whether anyone answers other"}},
	{"hook of our name for launches", func(w *world) { w.Groups[0].Hooks[0].Launching = true }, []string{"warning group workers-a: has no lifecycle hook"}},
	{"hook of another tool too", func(w *world) {
		w.Groups[0].Hooks = hooks(hook("other", termination.Continue), hook("quiesce", termination.Continue))
	}, []string{"info group workers-a: other also holds its terminations"}},
	{"hook of another tool that abandons", func(w *world) {
		w.Groups[0].Hooks = hooks(hook("other", termination.Abandon), hook("quiesce", termination.Continue))
	}, []string{"warning group workers-a: hook other has the default result ABANDON", "info group workers-a: other also holds its terminations"}},
	{"hook that abandons", func(w *world) { w.Groups[0].Hooks[0].DefaultResult = termination.Abandon },
		[]string{"info group workers-a: hook quiesce has the default result ABANDON, and the group does not retain abandoned instances"}},
	{"hook that abandons where that retains", func(w *world) { w.Groups[0].Hooks[0].DefaultResult, w.Groups[0].Retains = termination.Abandon, true }, nil},
	{"hook that continues where abandoning would retain", func(w *world) { w.Groups[0].Retains = true },
		[]string{"info group workers-a: retains abandoned instances, but hook quiesce has the default result CONTINUE"}},
	{"short heartbeat timeout", func(w *world) { w.Groups[0].Hooks[0].HeartbeatTimeout = 19 * time.Minute },
		[]string{"warning group workers-a: hook quiesce waits only 19m for a heartbeat"}},
	{"hook that ends before the drain", func(w *world) { w.Groups[0].Hooks[0].GlobalTimeout = 20 * time.Minute },
		[]string{"critical group workers-a: hook quiesce ends after 20m, and drain.maxDuration is 30m"}},
	{"Launch suspended", func(w *world) { w.Groups[0].Suspended = []string{"Launch"} }, []string{"critical group workers-a: its process Launch is suspended"}},
	{"Terminate suspended", func(w *world) { w.Groups[0].Suspended = []string{"Terminate"} }, []string{"warning group workers-a: its process Terminate is suspended"}},
	{"maintenance policy that terminates first", func(w *world) { w.Groups[0].MinHealthy = 90 },
		[]string{"warning group workers-a: its maintenance policy keeps only 90% of its capacity"}},
	{"no maintenance policy", func(w *world) { w.Groups[0].MinHealthy = asg.NoPolicy }, nil},
	{"tag of EKS, but no Cluster Autoscaler", func(w *world) {
		w.Groups[0].Tags["k8s.io/cluster-autoscaler/enabled"], w.Groups[0].Zones = "true", []string{"z1", "z2"}
	}, nil},
	{"Cluster Autoscaler that runs, and rebalancing", func(w *world) {
		w.Groups[0].Tags["k8s.io/cluster-autoscaler/enabled"], w.Groups[0].Zones = "true", []string{"z1", "z2"}
		w.addPod("kube-system", "scaler", 0, "a1", map[string]string{}).Spec.Containers[0].Image = "registry.k8s.io/autoscaling/cluster-autoscaler:v1.33.0"
	}, []string{"warning group workers-a: Cluster Autoscaler manages it, and it may rebalance z1 and z2"}},
	{"Cluster Autoscaler and one zone", func(w *world) { w.Groups[0].Tags["k8s.io/cluster-autoscaler/enabled"] = "true" }, nil},
	{"tag of Karpenter only", func(w *world) { w.Groups[0].Tags["karpenter.sh/discovery"] = "prod" }, nil},
	{"Karpenter in a group", func(w *world) { w.Nodes[0].Labels[karpenterPool] = "default" },
		[]string{"warning group workers-a: Karpenter manages nodes of it too", "info 1 node: Karpenter manages a1"}},
	{"group that the configuration does not match", func(w *world) { w.Groups[0].Name = "batch" },
		[]string{"warning group batch: autoScalingGroups in quiesce.yaml does not match it"}},
}

var nodeCases = []testCase{
	{"no providerID", func(w *world) { w.Nodes[0].Spec.ProviderID = "" }, []string{"warning node a1: has no providerID"}},
	{"providerID of no instance", func(w *world) { w.Nodes[0].Spec.ProviderID = "aws:///a1" }, []string{`warning node a1: its providerID "aws:///a1" names no instance`}},
	{"hybrid node", func(w *world) { w.addNode("x", "eu-west-1a").Spec.ProviderID = "eks-hybrid:///eu-west-1/prod/mi-1" }, nil},
	{"providerID of another zone", func(w *world) { w.Nodes[0].Spec.ProviderID = "aws:///eu-west-1b/i-a1" },
		[]string{`warning node a1: its providerID "aws:///eu-west-1b/i-a1" is not of its zone eu-west-1a`}},
	{"instance that EC2 does not know", func(w *world) { delete(w.Instances, "i-a1") }, []string{"warning node a1: EC2 does not know its instance i-a1"}},
	{"account not read", func(w *world) { w.AWS, w.Instances, w.Groups = false, nil, nil }, nil},
	{"one instance for two nodes", func(w *world) { w.Nodes[1].Spec.ProviderID = w.Nodes[0].Spec.ProviderID },
		[]string{"warning instance i-a1: nodes a1 and a2 claim it"}},
	{"Fargate", func(w *world) {
		n := w.addNode("f", "eu-west-1a")
		n.Spec.ProviderID, n.Labels["eks.amazonaws.com/compute-type"] = "aws:///eu-west-1a/fargate-1", "fargate"
	}, nil},
	{"node in no group", func(w *world) { w.addNode("x", "eu-west-1a") }, []string{"info 1 node: in no Auto Scaling group: x"}},
	{"node whose node group is gone", func(w *world) { w.addNode("x", "eu-west-1a").Labels[nodeGroupLabels[0]] = "old" },
		[]string{"warning node group old: its Auto Scaling group is gone, and nodes remain: x"}},
	{"node whose node group is there", func(w *world) {
		w.addNode("x", "eu-west-1a").Labels[nodeGroupLabels[0]] = "new"
		w.Groups[0].Tags[nodeGroupTags[0]] = "new"
	}, []string{"info 1 node: in no Auto Scaling group: x"}},
	{"requests that fit on no other node", func(w *world) {
		w.addPod("shop", "big", 0, "a1", map[string]string{}).Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("4")}
		for i, n := range []string{"a2", "b1", "b2"} {
			w.addPod("shop", "idle", i, n, map[string]string{}).Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
		}
	}, []string{"warning node a1: 1 of its 3 evicted pods would find no room elsewhere: deployment shop/big"}},
	{"pods that fit, but not all of them", func(w *world) {
		for i := range 4 {
			w.addPod("shop", "big", i, "a1", map[string]string{}).Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("4")}
		}
	}, []string{"warning node a1: 1 of its 6 evicted pods would find no room elsewhere: deployment shop/big"}},
	{"init container that needs more than a node", func(w *world) {
		w.addPod("shop", "big", 0, "a1", map[string]string{}).Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": resource.MustParse("5")},
		}}}
	}, []string{"warning node a1: 1 of its 3 evicted pods would find no room elsewhere: deployment shop/big"}},
	{"nodes without room for a pod more", func(w *world) {
		for i := range w.Nodes[1:] {
			w.Nodes[i+1].Status.Allocatable["pods"] = resource.MustParse("1")
		}
	}, []string{"warning node a1: 2 of its 2 evicted pods would find no room elsewhere: deployment db/pgbouncer and deployment shop/web"}},
	{"finished pods take no room", func(w *world) {
		four := corev1.ResourceList{"cpu": resource.MustParse("4")}
		w.addPod("shop", "big", 0, "a1", map[string]string{}).Spec.Containers[0].Resources.Requests = four
		for i, n := range []string{"a2", "b1", "b2"} {
			done := w.addPod("shop", "done", i, n, map[string]string{})
			done.Spec.Containers[0].Resources.Requests, done.Status.Phase = four, corev1.PodSucceeded
		}
	}, nil},
	{"selector of one node", func(w *world) {
		w.addPod("shop", "pinned", 0, "b2", map[string]string{}).Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b2"}
	}, []string{"warning node b2: 1 of its 2 evicted pods would find no room elsewhere: deployment shop/pinned"}},
	{"taints on all other nodes", func(w *world) {
		for i := range w.Nodes[1:] {
			w.Nodes[i+1].Spec.Taints = []corev1.Taint{{Key: "for", Value: "x", Effect: corev1.TaintEffectNoSchedule}}
		}
		for i := range w.Pods {
			if w.Pods[i].Name != "web-5d-0" {
				w.Pods[i].Spec.Tolerations = []corev1.Toleration{{Key: "for", Operator: corev1.TolerationOpExists}}
			}
		}
	}, []string{"warning node a1: 1 of its 2 evicted pods would find no room elsewhere: deployment shop/web"}},
	{"affinity to one zone with two nodes", func(w *world) { requireZone(w, "eu-west-1a") }, nil},
	{"affinity to one zone with one node", func(w *world) {
		w.Nodes[0].Labels[corev1.LabelTopologyZone], w.Nodes[0].Spec.ProviderID = "eu-west-1c", "aws:///eu-west-1c/i-a1"
		requireZone(w, "eu-west-1c")
	}, []string{"warning node a1: 1 of its 2 evicted pods would find no room elsewhere: deployment shop/web"}},
	{"volume on one node", func(w *world) { w.addVolume("disk", corev1.LabelHostname, "a1", &w.Pods[2]) },
		[]string{"critical deployment shop/web: its data is on disks of instances: volume disk"}},
	{"volume in a zone with two nodes", func(w *world) { w.addVolume("vol", corev1.LabelTopologyZone, "eu-west-1a", &w.Pods[2]) }, nil},
	{"volume in a zone whose other node is not Ready", func(w *world) {
		w.addVolume("vol", corev1.LabelTopologyZone, "eu-west-1a", &w.Pods[2])
		w.Nodes[1].Status.Conditions = nil
	}, []string{"warning deployment shop/web: no other node may attach volume vol of pod web-5d-0"}},
	{"volume in a zone with a cordoned node", func(w *world) {
		w.addVolume("vol", corev1.LabelTopologyZone, "eu-west-1a", &w.Pods[2])
		w.Nodes[1].Spec.Unschedulable = true
	}, []string{"warning deployment shop/web: no other node may attach volume vol of pod web-5d-0"}},
}

func requireZone(w *world, zone string) {
	w.Pods[2].Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone},
		}}}},
	}}}
}

var workloadCases = []testCase{
	{"PDBs of a DaemonSet, which no drain evicts", func(w *world) {
		for n, node := range []string{"a1", "a2"} {
			p := w.addPod("shop", "agent", n, node, map[string]string{"app": "agent"})
			p.OwnerReferences[0].Kind, p.Status.Conditions = "DaemonSet", nil
		}
		for _, name := range []string{"agent", "more"} {
			p := w.addPDB("shop", name, map[string]string{"app": "agent"})
			p.Spec.UnhealthyPodEvictionPolicy, p.Status.DesiredHealthy, p.Status.DisruptionsAllowed = nil, 3, 0
		}
	}, nil},
	{"PDB that needs all pods", func(w *world) { w.PDBs[0].Status.DesiredHealthy = 3 },
		[]string{"warning pdb shop/web: can never allow a disruption: wants 3 healthy pods of 3"}},
	{"PDB that cannot sync", func(w *world) {
		w.PDBs[0].Status.Conditions = []metav1.Condition{{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: "found no controller",
		}}
	}, []string{"warning pdb shop/web: cannot allow a disruption while it fails to sync: found no controller"}},
	{"PDB that would keep unready pods", func(w *world) { w.PDBs[0].Spec.UnhealthyPodEvictionPolicy = nil },
		[]string{"info 1 pdb: would keep pods that are not Ready: shop/web"}},
	{"PDB that keeps an unready pod", func(w *world) {
		w.PDBs[0].Spec.UnhealthyPodEvictionPolicy, w.PDBs[0].Status.DisruptionsAllowed = nil, 0
		w.Pods[2].Status.Conditions = nil
	}, []string{"warning pdb shop/web: keeps pods that are not Ready: 1 now"}},
	{"PDB that keeps no pod though one is unready", func(w *world) {
		w.PDBs[0].Spec.UnhealthyPodEvictionPolicy = nil
		w.Pods[2].Status.Conditions = nil
	}, []string{"info 1 pdb: would keep pods that are not Ready: shop/web"}},
	{"two PDBs", func(w *world) { w.addPDB("shop", "more", map[string]string{"app": "web"}) },
		[]string{"warning deployment shop/web: PDBs more and web select the same pods"}},
	{"PDB of an operator, by its owner", func(w *world) {
		w.PDBs[0].Status.DesiredHealthy = 3
		w.PDBs[0].OwnerReferences = []metav1.OwnerReference{{APIVersion: "postgresql.cnpg.io/v1", Kind: "Cluster", Name: "orders"}}
	}, []string{"info pdb shop/web: can never allow a disruption: wants 3 healthy pods of 3"}},
	{"PDB of members of a database", func(w *world) {
		w.PDBs[0].Status.DesiredHealthy = 3
		w.Pods[2].Labels["application"], w.Pods[2].Labels["cluster-name"] = "spilo", "acid-orders"
	}, []string{"info pdb shop/web: can never allow a disruption: wants 3 healthy pods of 3"}},
	{"PDB of a database that keeps an unready member", func(w *world) {
		w.PDBs[0].Spec.UnhealthyPodEvictionPolicy, w.PDBs[0].Status.DisruptionsAllowed = nil, 0
		w.Pods[2].Status.Conditions = nil
		w.PDBs[0].Labels = map[string]string{"application": "spilo"}
	}, nil},
	{"two PDBs in two namespaces", func(w *world) { w.addPDB("db", "more", map[string]string{"app": "web"}) }, nil},
	{"long grace period", func(w *world) { w.Pods[2].Spec.TerminationGracePeriodSeconds = new(int64(1771)) },
		[]string{"warning deployment shop/web: its grace period of 29m31s is longer than a drain (29m30s)"}},
	{"bare pod", func(w *world) { w.Pods[2].OwnerReferences = nil }, []string{"warning 1 pod: nothing restarts shop/web-5d-0"}},
	{"bare pod that has finished", func(w *world) { w.Pods[2].OwnerReferences, w.Pods[2].Status.Phase = nil, corev1.PodSucceeded }, nil},
	{"bare pod that opts out", func(w *world) {
		w.Pods[2].OwnerReferences, w.Pods[2].Annotations = nil, map[string]string{drain.OptOutAnnotation: "false"}
	}, nil},
	{"webhook for pods without pods of its own", func(w *world) { w.addWebhook("shop/guard", "pods") },
		[]string{"critical webhook guard: fails closed, and no pod serves it"}},
	{"webhook for pods on one node", func(w *world) {
		w.addWebhook("shop/guard", "pods")
		w.addPod("shop", "guard", 0, "a1", map[string]string{"app": "guard"})
	}, []string{"critical webhook guard: fails closed, and only a1 serves it"}},
	{"webhook of whose pods one is not Ready", func(w *world) {
		w.addWebhook("shop/guard", "pods")
		w.addPod("shop", "guard", 0, "a1", map[string]string{"app": "guard"})
		w.addPod("shop", "guard", 1, "b1", map[string]string{"app": "guard"}).Status.Conditions = nil
	}, []string{"critical webhook guard: fails closed, and only a1 serves it"}},
	{"webhook for secrets on one node", func(w *world) {
		w.addWebhook("shop/guard", "secrets")
		w.addPod("shop", "guard", 0, "a1", map[string]string{"app": "guard"})
	}, []string{"warning webhook guard: fails closed, and only a1 serves it"}},
	{"webhook for some namespaces", func(w *world) {
		w.addWebhook("shop/guard", "pods").Namespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"guarded": "yes"}}
	}, []string{"warning webhook guard: fails closed, and no pod serves it"}},
	{"webhook for all namespaces but one without pods", func(w *world) {
		w.addWebhook("shop/guard", "pods").Namespaces = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"empty"}},
		}}
	}, []string{"critical webhook guard: fails closed, and no pod serves it"}},
	{"webhook for some pods", func(w *world) {
		w.addWebhook("shop/guard", "pods").Objects = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	}, []string{"warning webhook guard: fails closed, and no pod serves it"}},
	{"webhook with empty selectors", func(w *world) {
		hook := w.addWebhook("shop/guard", "pods")
		hook.Objects, hook.Namespaces = &metav1.LabelSelector{}, &metav1.LabelSelector{}
	}, []string{"critical webhook guard: fails closed, and no pod serves it"}},
	{"webhook with conditions", func(w *world) { w.addWebhook("shop/guard", "pods").Conditional = true },
		[]string{"warning webhook guard: fails closed, and no pod serves it"}},
	{"webhook on two nodes", func(w *world) {
		w.addWebhook("shop/guard", "pods")
		w.addPod("shop", "guard", 0, "a1", map[string]string{"app": "guard"})
		w.addPod("shop", "guard", 1, "b1", map[string]string{"app": "guard"})
	}, nil},
	{"webhook, but pods were not read", func(w *world) {
		w.addWebhook("shop/guard", "pods")
		w.Pods, w.PDBs, w.Unread = nil, nil, []Unread{{"pods", "forbidden", "run it as somebody else"}}
	}, []string{"warning pods: could not be read: forbidden"}},
	{"webhook that fails open", func(w *world) { w.addWebhook("shop/guard", "pods").FailClosed = false }, nil},
	{"webhook outside of the cluster", func(w *world) { w.addWebhook("", "pods") }, nil},
}

var poolerCases = []testCase{
	{"pooler without a hook", func(w *world) { w.Pods[0].Spec.Containers[0].Lifecycle = nil },
		[]string{"warning deployment db/pgbouncer: no preStop hook: pgbouncer refuses new connections before the node proxies stop sending them"}},
	{"pooler of an old version without a hook", func(w *world) {
		w.Pods[0].Spec.Containers[0].Image, w.Pods[0].Spec.Containers[0].Lifecycle = "pgbouncer:1.18.0", nil
	}, []string{"warning deployment db/pgbouncer: no preStop hook that waits for open transactions: when a rollout or kubectl drain terminates the pod, " +
		"before 1.23, SIGTERM aborts open transactions at once"}},
	{"single pooler", func(w *world) { w.Pods = slices.Delete(w.Pods, 1, 2) },
		[]string{"warning deployment db/pgbouncer: only one replica: clients cannot connect until its replacement is Ready"}},
	{"poolers on one node", func(w *world) { w.Pods[1].Spec.NodeName = "a1" }, []string{"critical deployment db/pgbouncer: all 2 pods are on node a1"}},
	{"poolers on one node, one is pending", func(w *world) { w.Pods[1].Spec.NodeName = "" }, nil},
	{"poolers in one zone", func(w *world) { w.Pods[1].Spec.NodeName = "a2" }, []string{"warning deployment db/pgbouncer: all 2 pods are in zone eu-west-1a"}},
	{"good configuration", func(w *world) {
		w.addConfig("[pgbouncer]\nmax_client_conn = 500\nquery_wait_timeout = 60\npool_mode = transaction\nso_reuseport = 0\n")
	}, nil},
	{"sessions of one database", func(w *world) {
		w.addConfig("[databases]\na = host=b pool_mode=session\n[pgbouncer]\nmax_client_conn=500\n")
	},
		[]string{"warning deployment db/pgbouncer: session pooling: each client is disconnected, at best between two transactions, and loses its session's state"}},
	{"sessions by the environment", func(w *world) {
		w.Pods[0].Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PGBOUNCER_POOL_MODE", Value: "session"}}
	}, []string{"warning deployment db/pgbouncer: session pooling: each client is disconnected, at best between two transactions, and loses its session's state"}},
	{"several processes", func(w *world) { w.addConfig("max_client_conn=500\nso_reuseport=1\n") },
		[]string{"warning deployment db/pgbouncer: so_reuseport = 1: several processes may share one port"}},
	{"short query_wait_timeout", func(w *world) { w.addConfig("max_client_conn=500\nquery_wait_timeout = 59\n") },
		[]string{"warning deployment db/pgbouncer: query_wait_timeout = 59"}},
	{"short query_timeout", func(w *world) { w.addConfig("max_client_conn=500\nquery_timeout = 34\n") },
		[]string{"warning deployment db/pgbouncer: query_timeout = 34"}},
	{"long enough query_timeout", func(w *world) { w.addConfig("max_client_conn=500\nquery_timeout = 35\n") }, nil},
	{"endless query_wait_timeout", func(w *world) { w.addConfig("max_client_conn=500\nquery_wait_timeout = 0\n") }, nil},
	{"session pooling by default", func(w *world) {
		w.addConfig("[databases]\na = host=b pool_mode=transaction\n[pgbouncer]\nmax_client_conn=500\n")
	},
		[]string{"warning deployment db/pgbouncer: session pooling: each client is disconnected, at best between two transactions, and loses its session's state"}},
	{"settings in comments", func(w *world) { w.addConfig("max_client_conn = 500\n; so_reuseport = 1\n # pool_mode = session\n") }, nil},
	{"settings that are not pgbouncer's own", func(w *world) { w.addConfig("[databases]\na = host=b pool_mode=transaction\n") }, nil},
	{"settings of a file that is not read", func(w *world) { w.addConfig("[pgbouncer]\npool_mode = transaction\n%include /etc/more.ini\n") }, nil},
	{"certificate of the cluster, which each pod mounts", func(w *world) {
		w.ConfigMaps = []corev1.ConfigMap{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "db", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "-----BEGIN CERTIFICATE-----\n"},
		}}
		for i := range w.Pods {
			w.Pods[i].Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
					LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				}}},
			}}}}
		}
	}, nil},
	{"few clients", func(w *world) { w.addConfig("max_client_conn=50\n") },
		[]string{"info deployment db/pgbouncer: max_client_conn is 50: without one pod, the others take 50 clients"}},
	{"few clients by default", func(w *world) { w.addConfig("[pgbouncer]\npool_mode = transaction\n;max_client_conn=500\n") },
		[]string{"info deployment db/pgbouncer: max_client_conn is 100: without one pod, the others take 100 clients"}},
}

var databaseCases = []testCase{
	{"unknown database", func(w *world) { w.database().Failure = "forbidden" }, []string{"info database db/demo (zalando): cannot be looked at: forbidden"}},
	{"members on one node", func(w *world) { w.database().Members[1].Node = "a1" },
		[]string{"critical database db/demo (zalando): no other member could lead: primary demo-0 is on node a1"}},
	{"replica that is not Ready", func(w *world) { w.database().Members[1].Ready = false },
		[]string{"critical database db/demo (zalando): no other member could lead: primary demo-0 is on node a1"}},
	{"replica on a node that leaves", func(w *world) { w.database().Members[1].Leaving = "it is cordoned" },
		[]string{"critical database db/demo (zalando): no other member could lead: primary demo-0 is on node a1"}},
	{"replica that must not lead", func(w *world) { w.database().Members[1].NoFailover = true },
		[]string{"critical database db/demo (zalando): no other member could lead: primary demo-0 is on node a1"}},
	{"single member", func(w *world) { w.database().Members = w.database().Members[:1] },
		[]string{"warning database db/demo (zalando): it has one member only, demo-0 on node a1"}},
	{"strict with one standby", func(w *world) { w.database().Synchronous, w.database().Strict = true, true },
		[]string{"warning database db/demo (zalando): only demo-1 can be its synchronous standby, and writes need one"}},
	{"strict with two standbys", func(w *world) {
		w.database().Synchronous, w.database().Strict = true, true
		w.database().Members = append(w.database().Members, member("demo-2", "b2"))
	}, nil},
	{"no leader", func(w *world) { w.database().Leader = "" }, []string{"warning database db/demo (zalando): its primary would be held: no member leads the cluster"}},
	{"maintenance", func(w *world) { w.database().Paused = true },
		[]string{"warning database db/demo (zalando): its primary would be held: Patroni is in maintenance mode (pause)"}},
	{"a switchover that somebody asked for", func(w *world) { w.database().Pending = "a switchover from demo-0 to demo-1" },
		[]string{"warning database db/demo (zalando): its primary would be held: a switchover from demo-0 to demo-1 has been requested"}},
	{"leader that answers and sees no key", func(w *world) {
		d := w.database()
		d.LeaderLive, d.LeaderLSN, d.Leaders, d.TTL, d.RenewTime, d.Version = true, 1, []string{"demo-0"}, time.Minute, w.Now, "4.0.7"
		d.Members[0].Live, d.Members[0].Role, d.Members[0].Unlocked = true, postgres.Primary, true
	}, []string{"warning database db/demo (zalando): its primary would be held: the leader demo-0 sees no leader key"}},
}

var quiesceCases = []testCase{
	{"nodes not read", func(w *world) { w.Unread = []Unread{{"nodes", "forbidden", "run it as somebody else"}} },
		[]string{"warning nodes: could not be read: forbidden"}},
	{"not installed", func(w *world) { w.Install.Namespace, w.Function = false, nil }, []string{"info quiesce: is not installed in this cluster"}},
	{"not installed, but the function is there", func(w *world) { w.Install.Namespace = false },
		[]string{"critical quiesce: the function is deployed, and its permissions are not installed in this cluster"}},
	{"permission missing", func(w *world) {
		w.Install.Missing = []Permission{{"list", "", "pods", "", ""}, {"get", "", "nodes", "", ""}}
	},
		[]string{"critical rbac group quiesce: the function may not get nodes and list pods"}},
	{"permissions missing that no setting needs", func(w *world) {
		w.Config.Drain.OnDeadline = config.Keep
		w.Config.Phases = nil
		w.Install.Missing = []Permission{{"delete", "", "pods", "", ""}, {"patch", "", "pods", "", ""}}
	}, []string{"info rbac group quiesce: the function may not delete pods and patch pods"}},
	{"permissions missing that the settings need", func(w *world) {
		w.Config.Drain.OnDeadline = config.Force
		w.Config.Phases = []config.Phase{{PGBouncer: &config.PGBouncer{Strategy: config.StrategyAuto, Timeout: time.Minute}}}
		w.Install.Missing = []Permission{{"delete", "", "pods", "", ""}, {"patch", "", "pods", "", ""}}
	}, []string{"critical rbac group quiesce: the function may not delete pods and patch pods"}},
	{"permissions missing, and no settings", func(w *world) {
		w.Configured = false
		w.Install.Missing = []Permission{{"delete", "", "pods", "", ""}, {"patch", "", "pods", "", ""}}
	}, []string{"info rbac group quiesce: the function may not delete pods and patch pods"}},
	{"policy missing", func(w *world) { w.Install.Policies = []string{"quiesce-pods"} },
		[]string{"warning rbac group quiesce: admission policies are missing: quiesce-pods"}},
	{"function that cannot run", func(w *world) { w.Function.Problem = "its state is Failed" }, []string{"critical function quiesce-prod: its state is Failed"}},
	{"function of another version", func(w *world) { w.Version, w.Function.Version = "v1.3.0", "v1.2.0" },
		[]string{"warning function quiesce-prod: was deployed as version v1.2.0, and this quiescectl is v1.3.0"}},
	{"function of this version", func(w *world) { w.Version, w.Function.Version = "v1.3.0", "v1.3.0" }, nil},
	{"function of an unknown version", func(w *world) { w.Version = "v1.3.0" }, nil},
	{"function of a build without a version", func(w *world) { w.Version, w.Function.Version = "v1.3.0", "dev" }, nil},
	{"function of a build without git", func(w *world) { w.Version, w.Function.Version = "v1.3.0", "unknown-dirty" }, nil},
	{"function with what is no version", func(w *world) { w.Version, w.Function.Version = "v1.3.0", "v1; echo" }, nil},
	{"quiescectl that does not know its version", func(w *world) { w.Version, w.Function.Version = "unknown", "v1.2.0" }, nil},
	{"function without a way to the API server", func(w *world) { w.Network = &Network{Private: true} },
		[]string{"critical function quiesce-prod: is in no VPC, and the cluster's endpoint is private only"}},
	{"messages in the DLQ", func(w *world) { w.Function.DLQMessages = 2 }, []string{"warning function quiesce-prod: 2 messages in its dead-letter queue"}},
	{"mark that nobody holds", func(w *world) { w.addUnfinished(postgres.LeasePrefix + "x").Mark = "{}" },
		[]string{"critical lease quiesce/quiesce-postgres-x: no invocation holds it, and its annotation quiesce/paused says that poolers may be paused"}},
	{"mark of poolers that are resumed", func(w *world) { w.addUnfinished(postgres.LeasePrefix + "x").Mark = `{"resumed":true}` }, nil},
	{"mark that somebody holds", func(w *world) {
		u := w.addUnfinished(postgres.LeasePrefix + "x")
		u.Mark, u.Held = "{}", true
	}, nil},
	{"record of a drain that nobody holds", func(w *world) {
		w.Pods[0].UID = "paused"
		w.addUnfinished("i-a1").Pods = []string{"gone", "paused"}
	}, []string{"critical lease quiesce/i-a1: no invocation holds it, and a drain recorded on it that db/pgbouncer-5d-0 may be paused"}},
	{"record of a drain that somebody holds", func(w *world) {
		u := w.addUnfinished("i-a1")
		u.Pods, u.Held = []string{"u"}, true
	}, nil},
	{"record of a pod that is gone", func(w *world) { w.addUnfinished("i-a1").Pods = []string{"gone"} }, nil},
	{"node that stayed closed", func(w *world) { w.Nodes[0].Labels[corev1.LabelNodeExcludeBalancers] = "quiesce" },
		[]string{"warning node a1: quiesce cordoned it, and no Lease records a drain"}},
	{"node that a drain closed", func(w *world) {
		w.Nodes[0].Labels[corev1.LabelNodeExcludeBalancers] = "quiesce"
		w.Install.Leases = []termination.LeaseInfo{{Name: "i-a1"}}
	}, nil},
	{"node without providerID that a drain closed", func(w *world) {
		w.Nodes[0].Labels[corev1.LabelNodeExcludeBalancers], w.Nodes[0].Spec.ProviderID = "quiesce", ""
		w.Install.Leases = []termination.LeaseInfo{{Name: "i-a1", Closed: []termination.ClosedNode{{Name: "a1"}}}}
	}, []string{"warning node a1: has no providerID"}},
}

func TestExamine_OtherVersion_CommandEndsTheDifference(t *testing.T) {
	w := healthy(t)
	for version, want := range map[string]string{
		"v1.2.0": "git checkout v1.2.0 && make quiescectl", "v1.2.0-dirty": "make deploy", "0123456789ab": "git checkout 0123456789ab && make quiescectl",
	} {
		w.Version, w.Function.Version = "v1.3.0", version
		found := Examine(w.Snapshot, "").Findings
		require.Len(t, found, 1)
		require.Equal(t, want, found[0].Command)
	}
}

func TestExamine_Findings_TheWorstFirst(t *testing.T) {
	w := healthy(t)
	w.PDBs[0].Spec.UnhealthyPodEvictionPolicy = nil // info
	w.Groups[0].MinHealthy = 90                     // warning
	w.Pods[1].Spec.NodeName = "a1"                  // critical
	r := Examine(w.Snapshot, "")
	var severities []Severity
	for _, f := range r.Findings {
		severities = append(severities, f.Severity)
	}
	require.Equal(t, []Severity{Critical, Warning, Info}, severities)
	require.Equal(t, Summary{Critical: 1, Warning: 1, Info: 1, Nodes: 4, Pods: 5, Groups: 2}, r.Summary)
	require.True(t, r.HasAtLeast(Critical))

	db := Examine(w.Snapshot, "db")
	require.Equal(t, []string{"critical deployment db/pgbouncer: all 2 pods are on node a1"}, lines(db))
	require.Equal(t, 0, db.Summary.Warning)
	shop := Examine(w.Snapshot, "shop")
	require.Equal(t, []string{"info 1 pdb: would keep pods that are not Ready: shop/web"}, lines(shop))
	require.False(t, shop.HasAtLeast(Warning))
	require.True(t, shop.HasAtLeast(Info))
}

// Findings name a few of many objects. Those of the namespace that is asked about must not be among the others.
func TestExamine_Namespace_NamesItsObjectsOnly(t *testing.T) {
	w := healthy(t)
	for i := range 6 {
		name := fmt.Sprintf("bare-%d", i)
		w.addPod("a", name, 0, "a1", map[string]string{}).OwnerReferences = nil
		w.addPDB("a", name, map[string]string{"app": "none"}).Spec.UnhealthyPodEvictionPolicy = nil
	}
	w.addPod("z", "last", 0, "a1", map[string]string{}).OwnerReferences = nil
	w.addPDB("z", "last", map[string]string{"app": "none"}).Spec.UnhealthyPodEvictionPolicy = nil
	for i := range 6 {
		w.addPod("a", fmt.Sprintf("pinned-%d", i), 0, "a1", map[string]string{}).Spec.NodeSelector = map[string]string{"no": "node"}
	}
	w.addPod("z", "pinned", 0, "a1", map[string]string{}).Spec.NodeSelector = map[string]string{"no": "node"}
	require.Equal(t, []string{
		"warning node a1: 1 of its 9 evicted pods would find no room elsewhere: deployment z/pinned",
		"warning 1 pod: nothing restarts z/last-5d-0",
		"info 1 pdb: would keep pods that are not Ready: z/last",
	}, lines(Examine(w.Snapshot, "z")))
}

// maxUnavailable needs a controller whose replicas Kubernetes knows. With another one, the PDB would allow no disruption ever.
func TestExamine_PDBOfPodsWithoutReplicas_IsNotPatched(t *testing.T) {
	for kind, patched := range map[string]bool{"ReplicaSet": true, "StatefulSet": true, "CloneSet": false, "": false} {
		w := healthy(t)
		w.addPDB("shop", "more", map[string]string{"app": "web"}).Status.DesiredHealthy = 3
		w.PDBs = w.PDBs[len(w.PDBs)-1:]
		for i := range w.Pods {
			if w.Pods[i].Labels["app"] != "web" {
				continue
			}
			if w.Pods[i].OwnerReferences = nil; kind != "" {
				w.Pods[i].OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "web", Controller: new(true)}}
			}
		}
		i := slices.IndexFunc(Examine(w.Snapshot, "").Findings, func(f Finding) bool { return f.Check == "pdb-never" })
		require.GreaterOrEqual(t, i, 0, kind)
		require.Equal(t, patched, strings.Contains(Examine(w.Snapshot, "").Findings[i].Command, "patch"), kind)
	}
}

// A patch of an operator's PDB is undone at best. A deleted PDB may have been all that kept a database up.
func TestExamine_PDBOfAnOperator_GetsNoCommandThatChangesIt(t *testing.T) {
	w := healthy(t)
	w.addPDB("shop", "more", map[string]string{"app": "web"}).Spec.UnhealthyPodEvictionPolicy = nil
	for i := range w.PDBs {
		w.PDBs[i].Status.DesiredHealthy, w.PDBs[i].Status.DisruptionsAllowed = 3, 0
	}
	w.Pods[2].Status.Conditions = nil
	commands := func() (found string) {
		for _, f := range Examine(w.Snapshot, "").Findings {
			found += f.Command + "\n"
		}
		return found
	}
	require.Contains(t, commands(), "kubectl patch pdb -n shop more")
	require.NotContains(t, commands(), "delete")
	for _, owner := range []metav1.OwnerReference{
		{APIVersion: "postgresql.cnpg.io/v1", Kind: "Cluster"}, {APIVersion: "acid.zalan.do/v1", Kind: "postgresql"}, {APIVersion: "kafka.example/v1", Kind: "Kafka"},
		{APIVersion: "postgres-operator.crunchydata.com/v1beta1", Kind: "PostgresCluster"}, {APIVersion: "stackgres.io/v1", Kind: "SGCluster"},
	} {
		w.PDBs[0].OwnerReferences, w.PDBs[1].OwnerReferences = []metav1.OwnerReference{owner}, []metav1.OwnerReference{owner}
		require.NotContains(t, commands(), "patch", owner.Kind)
		require.Contains(t, commands(), "kubectl get pdb -n shop", owner.Kind)
	}
}

func TestIncomplete_NodesOrPodsUnread_Only(t *testing.T) {
	for part, want := range map[string]bool{"nodes": true, "pods": true, "leases": false, "AWS": false} {
		require.Equal(t, want, Snapshot{Unread: []Unread{{Part: part}}}.Incomplete(""), part)
		require.Equal(t, part == "pods", Snapshot{Unread: []Unread{{Part: part}}}.Incomplete("shop"), part)
	}
	require.False(t, Snapshot{}.Incomplete(""))
}

func TestQuote_Name_IsOneArgument(t *testing.T) {
	for name, want := range map[string]string{"workers-a": "workers-a", "my group": "'my group'", "a'b": `'a'\''b'`, "a;b": "'a;b'", "": "''"} {
		require.Equal(t, want, Quote(name))
	}
	w := healthy(t)
	w.Groups[0].Name, w.Groups[0].Suspended, w.Configured = "my group", []string{"Launch"}, false
	require.Contains(t, Examine(w.Snapshot, "").Findings[0].Command, "--auto-scaling-group-name 'my group' ")
}

// A hook without the name of the stack is neither renewed nor removed with it.
func TestExamine_GroupWithoutHook_CommandIsThatOfTheStack(t *testing.T) {
	for manage, metadata := range map[bool]string{false: "", true: ` --notification-metadata '{"managedBy":"quiesce-prod"}'`} {
		w := healthy(t)
		w.Config.Lifecycle.ManageHooks, w.Groups[0].Hooks = manage, nil
		found := Examine(w.Snapshot, "").Findings
		require.Len(t, found, 1)
		require.Equal(t, "aws autoscaling put-lifecycle-hook --auto-scaling-group-name workers-a --lifecycle-hook-name quiesce --lifecycle-transition "+
			"autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout 1200 --default-result CONTINUE"+metadata, found[0].Command)
		require.Equal(t, w.Config.PutHookCommand("workers-a"), found[0].Command)
	}
}

// Nobody answers a hook of another name than the stack's, and the name is not known without a configuration.
func TestExamine_GroupWithoutHookAndNoConfiguration_NoCommand(t *testing.T) {
	w := healthy(t)
	w.Configured, w.Groups[0].Hooks = false, nil
	found := Examine(w.Snapshot, "").Findings
	require.Len(t, found, 1)
	require.Empty(t, found[0].Command)
	require.Contains(t, found[0].Fix, "HooksByHand")
}

func TestExamine_OurHookAbandons_CommandOnlyIfItChangesThat(t *testing.T) {
	for onFailure, has := range map[string]bool{config.Continue: true, config.Abandon: false} {
		w := healthy(t)
		w.Config.Lifecycle.OnFailure, w.Groups[0].Hooks[0].DefaultResult = onFailure, termination.Abandon
		found := Examine(w.Snapshot, "").Findings
		require.Len(t, found, 1)
		require.Equal(t, has, found[0].Command != "", onFailure)
	}
}

func TestExamine_NodeThatStayedClosed_CommandUndoesAll(t *testing.T) {
	w := healthy(t)
	w.Nodes[0].Labels[corev1.LabelNodeExcludeBalancers] = "quiesce"
	const plain = "kubectl uncordon a1 && kubectl label node a1 node.kubernetes.io/exclude-from-external-load-balancers- && " +
		"kubectl annotate node a1 quiesce/termination-"
	require.Equal(t, plain, Examine(w.Snapshot, "").Findings[0].Command)
	w.Nodes[0].Spec.Taints = []corev1.Taint{{Key: "quiesce/terminating", Effect: corev1.TaintEffectNoSchedule}}
	require.Equal(t, plain+" && kubectl taint node a1 quiesce/terminating-", Examine(w.Snapshot, "").Findings[0].Command)
}

func TestBelongs_Group_ByInstanceOrTag(t *testing.T) {
	ids := map[string]bool{"i-1": true}
	for _, c := range []struct {
		group   termination.Group
		cluster string
		want    bool
	}{
		{termination.Group{Instances: []termination.Instance{{ID: "i-1"}}}, "", true},
		{termination.Group{Instances: []termination.Instance{{ID: "i-2"}}}, "prod", false},
		{termination.Group{Tags: map[string]string{"eks:cluster-name": "prod"}}, "prod", true},
		{termination.Group{Tags: map[string]string{"eks:cluster-name": "test"}}, "prod", false},
		{termination.Group{Tags: map[string]string{"kubernetes.io/cluster/prod": "owned"}}, "prod", true},
		{termination.Group{Tags: map[string]string{"k8s.io/cluster/prod": "owned"}}, "prod", true},
		{termination.Group{Tags: map[string]string{"kubernetes.io/cluster/": "owned"}}, "", false},
	} {
		require.Equal(t, c.want, Belongs(c.group, ids, c.cluster), "%v", c)
	}
}
