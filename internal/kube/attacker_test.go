package kube

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/internal/drain"
)

// attempt is a request with the function's role. All are dry runs: RBAC and admission decide about them like about any other.
type attempt struct {
	what   string
	verb   string
	path   string
	body   string
	patch  types.PatchType // of a PATCH
	policy string          // that refuses it; empty: RBAC does
	broken bool            // even an admin gets an error
}

// send sends the request with the client's identity.
func (r attempt) send(t *testing.T, c *Client) error {
	request := c.core.Verb(r.verb).AbsPath(r.path).Timeout(callTimeout).MaxRetries(0)
	if r.verb != http.MethodGet && r.verb != http.MethodDelete { // a deletion has the option in its body
		request.Param("dryRun", metav1.DryRunAll)
	}
	if r.body != "" {
		kind := "application/json"
		if r.patch != "" {
			kind = string(r.patch)
		}
		request.SetHeader("Content-Type", kind).Body([]byte(r.body))
	}
	return request.Do(t.Context()).Error()
}

// isRefused reports whether RBAC, or this policy, refuses the request. Only the text has the policy's name.
func (r attempt) isRefused(err error) bool {
	if r.policy != "" {
		return err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+r.policy+"' with binding '"+r.policy+"' denied request: quiesce must")
	}
	return apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "ValidatingAdmissionPolicy")
}

// attackerEnv is two nodes and three pods that an attacker with the role finds.
type attackerEnv struct {
	*labEnv
	admins         *Client
	node           string
	web            *corev1.Pod
	hasty          *corev1.Pod // its grace period is zero
	daemon         *corev1.Pod // of a DaemonSet
	kept           *corev1.Pod // it has opted out
	static         *corev1.Pod
	nodePath       string
	barePath       string // of a node without a provider ID
	namespacePath  string
	webPath        string
	surgingPath    string // of a pod with the label of an escort's surge
	deploymentPath string
}

func newAttackerEnv(t *testing.T) *attackerEnv {
	t.Helper()
	e := &attackerEnv{labEnv: newLabEnv(t)}
	var err error
	e.admins, err = New(e.Admin())
	require.NoError(t, err)
	e.node = "attacker-" + e.namespace
	bare := "bare-" + e.namespace
	n := nodeNamed(e.namespace)
	n.Name, n.Labels = e.node, map[string]string{"team": "a", "pool": e.namespace}
	require.NoError(t, e.AddNodes(t.Context(), n))
	_, err = e.Client().CoreV1().Nodes().Patch(t.Context(), e.node, types.MergePatchType, []byte(`{"spec":{"taints":[`+teamTaint+`]}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	_, err = e.Client().CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: bare}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, name := range []string{e.node, bare} {
			_ = e.RemoveNode(context.Background(), name)
		}
	})
	e.apply(strings.ReplaceAll(daemonManifest, "NAMESPACE", e.namespace))
	e.daemon = &e.awaitReady("app=agent", 1)[0]
	e.web, e.hasty = e.podOn(podNamed("web", ""), 30), e.podOn(podNamed("hasty", ""), 0)
	surging, kept, static := podNamed("surging", ""), podNamed("kept", ""), podNamed("static", "")
	surging.Labels = map[string]string{drain.EscortLabel: "surge"}
	kept.Annotations = map[string]string{drain.OptOutAnnotation: "false"}
	static.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "a"}
	e.podOn(surging, 30)
	e.kept, e.static = e.podOn(kept, 30), e.podOn(static, 30)
	e.nodePath, e.barePath, e.namespacePath = "/api/v1/nodes/"+e.node, "/api/v1/nodes/"+bare, "/api/v1/namespaces/"+e.namespace
	e.webPath, e.surgingPath = e.namespacePath+"/pods/web", e.namespacePath+"/pods/surging"
	e.deploymentPath = "/apis/apps/v1/namespaces/" + e.namespace + "/deployments/web"
	return e
}

const daemonManifest = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      nodeSelector: {pool: NAMESPACE}
      tolerations: [{operator: Exists}]
      containers: [{name: main, image: agent}]
`

// podOn starts a pod on the node.
func (e *attackerEnv) podOn(pod *corev1.Pod, grace int64) *corev1.Pod {
	e.Helper()
	pod.Namespace, pod.Labels, pod.Annotations = e.namespace, withTeam(pod.Labels), withTeam(pod.Annotations)
	pod.Spec = corev1.PodSpec{
		NodeName: e.node, TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "main", Image: "web"}},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
	}
	created, err := e.Client().CoreV1().Pods(e.namespace).Create(e.Context(), pod, metav1.CreateOptions{})
	require.NoError(e, err)
	e.eventually(func() bool { return isReady(e.pod(pod.Name)) })
	return created
}

// withTeam adds what belongs to the pod's owner.
func withTeam(values map[string]string) map[string]string {
	all := map[string]string{"app": "web", "team": "a"}
	maps.Copy(all, values)
	return all
}

// deletionOf deletes the pod as a drain would.
func (e *attackerEnv) deletionOf(what string, pod *corev1.Pod, policy string) attempt {
	return deletion(what, e.namespacePath+"/pods/"+pod.Name, `,"gracePeriodSeconds":30,"preconditions":{"uid":"`+string(pod.UID)+`"}`, policy)
}

func merge(what, path, body, policy string) attempt {
	return attempt{what: what, verb: http.MethodPatch, path: path, body: body, patch: types.MergePatchType, policy: policy}
}

func deletion(what, path, options, policy string) attempt {
	return attempt{what: what, verb: http.MethodDelete, path: path, body: `{"apiVersion":"v1","kind":"DeleteOptions","dryRun":["All"]` + options + `}`, policy: policy}
}

func (e *attackerEnv) status(what, body, policy string) attempt {
	return attempt{what: what, verb: http.MethodPatch, path: e.webPath + "/status", body: body, patch: types.StrategicMergePatchType, policy: policy}
}

func (e *attackerEnv) eviction(what, options, policy string) attempt {
	body := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"web","namespace":"%s"}%s}`, e.namespace, options)
	return attempt{what: what, verb: http.MethodPost, path: e.webPath + "/eviction", body: body, policy: policy}
}

func create(what, path, body, policy string) attempt {
	return attempt{what: what, verb: http.MethodPost, path: path, body: body, policy: policy}
}

func event(involved, source string) string {
	return `{"apiVersion":"v1","kind":"Event","metadata":{"name":"attacker","namespace":"default"},"reason":"Drained","message":"all pods",` +
		`"involvedObject":` + involved + `,"source":{"component":"` + source + `"}}`
}

// podEvent returns an event about a pod as a drain creates it, with one text of it replaced.
func (e *attackerEnv) podEvent(old, replacement string) string {
	body := `{"apiVersion":"v1","kind":"Event","metadata":{"name":"attacker","namespace":"` + e.namespace + `"},"type":"Warning",` +
		`"reason":"EvictionBlocked","message":"no room","involvedObject":{"apiVersion":"v1","kind":"Pod","namespace":"` + e.namespace + `","name":"web",` +
		`"uid":"` + string(e.web.UID) + `"},"source":{"component":"quiesce"}}`
	return strings.Replace(body, old, replacement, 1)
}

// refused are requests that no drain makes.
func (e *attackerEnv) refused() []attempt {
	const nodes, pods, deletions, evictions, status, events = "quiesce-nodes", "quiesce-pods", "quiesce-deletions", "quiesce-evictions", "quiesce-pod-status", "quiesce-events"
	uid, someone := `"preconditions":{"uid":"`+string(e.web.UID)+`"}`, `{"kind":"Pod","apiVersion":"v1","namespace":"default","name":"web"}`
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"miner"},"spec":{"containers":[{"name":"main","image":"miner"}]}}`
	lease := `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"attacker"}}`
	return []attempt{
		merge("a label of a node", e.nodePath, `{"metadata":{"labels":{"team":"b"}}}`, nodes),
		merge("a new label of a node", e.nodePath, `{"metadata":{"labels":{"pool":"b"}}}`, nodes),
		merge("no label of a node", e.nodePath, `{"metadata":{"labels":{"team":null}}}`, nodes),
		merge("the exclusion of a node, in another name", e.nodePath, `{"metadata":{"labels":{"`+excludeLabel+`":"x"}}}`, nodes),
		merge("an annotation of a node", e.nodePath, `{"metadata":{"annotations":{"team":"b"}}}`, nodes),
		merge("no annotation of a node", e.nodePath, `{"metadata":{"annotations":{"kwok.x-k8s.io/node":null}}}`, nodes),
		merge("a large note on a node", e.nodePath, `{"metadata":{"annotations":{"`+terminationAnnotation+`":"`+strings.Repeat("a", 4096)+`"}}}`, nodes),
		merge("a finalizer of a node", e.nodePath, `{"metadata":{"finalizers":["example.com/never"]}}`, nodes),
		merge("an owner of a node", e.nodePath, `{"metadata":{"ownerReferences":[`+owner+`]}}`, nodes),
		merge("a taint of a node", e.nodePath, `{"spec":{"taints":[{"key":"team","value":"b","effect":"NoExecute"}]}}`, nodes),
		merge("no taint of a node", e.nodePath, `{"spec":{"taints":null}}`, nodes),
		merge("our taint that evicts", e.nodePath, `{"spec":{"taints":[`+teamTaint+`,{"key":"quiesce/terminating","effect":"NoExecute"}]}}`, nodes),
		merge("our taint with a value", e.nodePath, `{"spec":{"taints":[`+teamTaint+`,{"key":"quiesce/terminating","value":"x","effect":"NoSchedule"}]}}`, nodes),
		merge("a cordon with a label", e.nodePath, `{"spec":{"unschedulable":true},"metadata":{"labels":{"team":"b"}}}`, nodes),
		merge("the pod CIDR of a node", e.barePath, `{"spec":{"podCIDR":"10.9.0.0/24","podCIDRs":["10.9.0.0/24"]}}`, nodes),
		merge("the provider ID of a node", e.barePath, `{"spec":{"providerID":"aws:///us-east-1a/i-other"}}`, nodes),
		merge("the status of a node", e.nodePath+"/status", `{"status":{"conditions":null}}`, ""),
		{what: "a new node", verb: http.MethodPost, path: "/api/v1/nodes", body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"attacker"}}`},
		deletion("the end of a node", e.nodePath, "", ""),
		deletion("the end of all nodes", "/api/v1/nodes", "", ""),

		merge("a label of a pod", e.webPath, `{"metadata":{"labels":{"team":"b"}}}`, pods),
		merge("a new label of a pod", e.webPath, `{"metadata":{"labels":{"pool":"b"}}}`, pods),
		merge("a new empty label of a pod", e.webPath, `{"metadata":{"labels":{"pool":""}}}`, pods),
		merge("no label of a pod", e.webPath, `{"metadata":{"labels":{"team":null}}}`, pods),
		merge("no labels of a pod at all", e.webPath, `{"metadata":{"labels":null}}`, pods),
		merge("two labels removed for a surge", e.webPath, `{"metadata":{"labels":{"quiesce/escort-state":"surge","team":null,"app":null}}}`, pods),
		merge("a label replaced for a surge", e.webPath, `{"metadata":{"labels":{"quiesce/escort-state":"surge","team":"b"}}}`, pods),
		merge("two labels after a surge", e.surgingPath, `{"metadata":{"labels":{"quiesce/escort-state":null,"x":"1","y":"1"}}}`, pods),
		merge("a label during a surge", e.surgingPath, `{"metadata":{"labels":{"x":"1"}}}`, pods),
		merge("another state of an escort", e.webPath, `{"metadata":{"labels":{"quiesce/escort-state":"x"}}}`, pods),
		merge("an annotation of a pod", e.webPath, `{"metadata":{"annotations":{"team":"b"}}}`, pods),
		merge("no annotations of a pod", e.webPath, `{"metadata":{"annotations":null}}`, pods),
		merge("the opt-out of a pod", e.webPath, `{"metadata":{"annotations":{"quiesce/drain":"false"}}}`, pods),
		merge("a finalizer of a pod", e.webPath, `{"metadata":{"finalizers":["example.com/never"]}}`, pods),
		merge("an owner of a pod", e.webPath, `{"metadata":{"ownerReferences":[`+owner+`]}}`, pods),
		{what: "an image", verb: http.MethodPatch, path: e.webPath, patch: types.StrategicMergePatchType, policy: pods,
			body: `{"spec":{"containers":[{"name":"main","image":"miner"}]}}`},
		merge("a deadline of a pod", e.webPath, `{"spec":{"activeDeadlineSeconds":1}}`, pods),
		{what: "an ephemeral container", verb: http.MethodPatch, path: e.webPath + "/ephemeralcontainers", patch: types.StrategicMergePatchType,
			body: `{"spec":{"ephemeralContainers":[{"name":"x","image":"miner"}]}}`},
		{what: "a resize", verb: http.MethodPatch, path: e.webPath + "/resize", patch: types.StrategicMergePatchType,
			body: `{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"1"}}}]}}`, broken: true},

		deletion("a deletion by name", e.webPath, "", deletions),
		deletion("a deletion without a UID", e.webPath, `,"gracePeriodSeconds":30`, deletions),
		deletion("a deletion with no grace, the pod's own", e.namespacePath+"/pods/hasty", `,"preconditions":{"uid":"`+string(e.hasty.UID)+`"}`, deletions),
		deletion("a deletion with no grace", e.webPath, `,"gracePeriodSeconds":0,`+uid, deletions),
		e.deletionOf("a deletion of a DaemonSet's pod", e.daemon, deletions),
		e.deletionOf("a deletion of a static pod", e.static, deletions),
		e.deletionOf("a deletion of a pod that opted out", e.kept, deletions),
		{what: "a deletion without options", verb: http.MethodDelete, path: e.webPath, policy: deletions, broken: true},
		deletion("a deletion of all pods", e.namespacePath+"/pods", `,"gracePeriodSeconds":30`, ""),
		e.eviction("an eviction by name", "", evictions),
		e.eviction("an eviction without a UID", `,"deleteOptions":{"gracePeriodSeconds":30}`, evictions),
		e.eviction("an eviction with no grace", `,"deleteOptions":{"gracePeriodSeconds":0,`+uid+`}`, evictions),

		e.status("another condition of a pod", `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, status),
		e.status("a condition that is gone", `{"status":{"conditions":[{"$patch":"delete","type":"Ready"}]}}`, status),
		e.status("a disruption that is none", `{"status":{"conditions":[{"type":"DisruptionTarget","status":"False"}]}}`, status),
		e.status("a long message", `{"status":{"conditions":[{"type":"DisruptionTarget","status":"True","message":"`+strings.Repeat("a", 2000)+`"}]}}`, status),
		e.status("the phase of a pod", `{"status":{"phase":"Failed"}}`, status),
		merge("the address of a pod", e.webPath+"/status", `{"status":{"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}]}}`, status),
		e.status("a label by the status", `{"metadata":{"labels":{"team":"b"}}}`, status),
		e.status("a finalizer by the status", `{"metadata":{"finalizers":["example.com/never"]}}`, status),

		create("another event of a pod", "/api/v1/namespaces/default/events", event(someone, "quiesce"), events),
		create("an event of another component", "/api/v1/namespaces/default/events", event(`{"kind":"Node","name":"`+e.node+`"}`, "kubelet"), events),
		create("an event elsewhere", e.namespacePath+"/events", strings.Replace(event(strings.Replace(someone, "default", e.namespace, 1), "quiesce"), `"namespace":"default"`, `"namespace":"`+e.namespace+`"`, 1), events),
		create("a normal event of a pod", e.namespacePath+"/events", e.podEvent(`"Warning"`, `"Normal"`), events),
		create("a warning that clients go on", e.namespacePath+"/events", e.podEvent("EvictionBlocked", "ClientsResumed"), events),
		create("an event of a pod without a UID", e.namespacePath+"/events", e.podEvent(string(e.web.UID), ""), events),
		create("an event of a pod, of another component", e.namespacePath+"/events", e.podEvent(`"component":"quiesce"`, `"component":"kubelet"`), events),
		create("an event of a pod, from another reporter", e.namespacePath+"/events", e.podEvent(`"reason"`, `"reportingComponent":"kubelet","reason"`), events),
		create("an event of a Deployment", e.namespacePath+"/events", e.podEvent(`"Pod"`, `"Deployment"`), events),
		create("an event that names a second object", e.namespacePath+"/events", e.podEvent(`"reason"`, `"related":`+someone+`,"reason"`), events),
		create("an event with a finalizer", e.namespacePath+"/events", e.podEvent(`"name":"attacker"`, `"name":"attacker","finalizers":["example.com/never"]`), events),
		create("a long event of a pod", e.namespacePath+"/events", e.podEvent("no room", strings.Repeat("a", 2000)), events),
		create("a long event of a node", "/api/v1/namespaces/default/events", strings.Replace(event(`{"kind":"Node","name":"`+e.node+`"}`, "quiesce"), "all pods", strings.Repeat("a", 2000), 1), events),
		merge("a change of an event", e.namespacePath+"/events/attacker", `{"message":"x"}`, "").invalid(),
		{what: "all events", verb: http.MethodGet, path: "/api/v1/events"},

		create("a pod", e.namespacePath+"/pods", pod, ""),
		create("a binding", e.webPath+"/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"web"},"target":{"kind":"Node","name":"node-a"}}`, "").invalid(),
		{what: "a shell", verb: http.MethodPost, path: e.webPath + "/exec", broken: true},
		{what: "a log", verb: http.MethodGet, path: e.webPath + "/log", broken: true},
		{what: "a proxy", verb: http.MethodGet, path: e.webPath + "/proxy", broken: true},
		{what: "a forwarded port", verb: http.MethodPost, path: e.webPath + "/portforward", broken: true},
		{what: "the kubelet's API", verb: http.MethodGet, path: e.nodePath + "/proxy/pods", broken: true},
		{what: "secrets", verb: http.MethodGet, path: e.namespacePath + "/secrets"},
		{what: "all secrets", verb: http.MethodGet, path: "/api/v1/secrets"},
		{what: "config maps", verb: http.MethodGet, path: e.namespacePath + "/configmaps"},
		create("a token", e.namespacePath+"/serviceaccounts/default/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["x"]}}`, "").invalid(),
		create("a namespace", "/api/v1/namespaces", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"attacker"}}`, ""),
		create("a lease elsewhere", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", lease, ""),
		create("a PDB", "/apis/policy/v1/namespaces/"+e.namespace+"/poddisruptionbudgets", `{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"attacker"}}`, ""),
		create("a role", "/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"attacker"}}`, ""),
		merge("its own role", "/apis/rbac.authorization.k8s.io/v1/clusterroles/quiesce", `{"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`, ""),
		deletion("the end of a policy", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/quiesce-pods", "", ""),
		merge("a Deployment", e.deploymentPath, `{"spec":{"replicas":0}}`, "").invalid(),
	}
}

const (
	owner     = `{"apiVersion":"v1","kind":"ConfigMap","name":"none","uid":"none"}`
	teamTaint = `{"key":"team","value":"a","effect":"NoSchedule"}`
)

// invalid marks a request that the API server refuses even to an admin, or that is about an object that does not exist.
func (r attempt) invalid() attempt {
	r.broken = true
	return r
}

// allowed are the requests of a drain, and so what remains possible for an attacker, with any node and any pod.
func (e *attackerEnv) allowed() []attempt {
	uid := `"preconditions":{"uid":"` + string(e.web.UID) + `"}`
	closed := `{"spec":{"unschedulable":true},"metadata":{"labels":{"` + excludeLabel + `":"quiesce"},"annotations":{"` + terminationAnnotation + `":"{}"}}}`
	return []attempt{
		merge("a closed node", e.nodePath, closed, ""),
		merge("a restored node", e.nodePath, strings.NewReplacer("true", "null", `"quiesce"`, "null", `"{}"`, "null").Replace(closed), ""),
		merge("a tainted node", e.nodePath, `{"spec":{"taints":[`+teamTaint+`,{"key":"quiesce/terminating","effect":"NoSchedule"}]}}`, ""),
		merge("an escort's label", e.webPath, `{"metadata":{"uid":"`+string(e.web.UID)+`","labels":{"quiesce/escort-state":"evict"}}}`, ""),
		merge("an escort's label of a DaemonSet's pod", e.webPath, `{"metadata":{"labels":{"quiesce/escort-state":"shutdown"}}}`, ""),
		merge("a surge", e.webPath, `{"metadata":{"labels":{"quiesce/escort-state":"surge","app":null}}}`, ""),
		merge("a surge that is undone", e.surgingPath, `{"metadata":{"labels":{"quiesce/escort-state":null,"role":"pooler"}}}`, ""),
		merge("no change of a pod", e.webPath, `{"metadata":{"uid":"`+string(e.web.UID)+`"}}`, ""),
		deletion("a deletion with UID and grace", e.webPath, `,"gracePeriodSeconds":1,`+uid, ""),
		deletion("a deletion with UID and the pod's own grace", e.webPath, `,`+uid, ""),
		e.eviction("an eviction", `,"deleteOptions":{`+uid+`}`, ""),
		e.eviction("an eviction with a grace period", `,"deleteOptions":{"gracePeriodSeconds":7,`+uid+`}`, ""),
		e.eviction("a dry run of an eviction", `,"deleteOptions":{"dryRun":["All"],`+uid+`}`, ""),
		e.status("a disruption", `{"status":{"conditions":[{"type":"DisruptionTarget","status":"True","reason":"DeletionByQuiesce","message":"deadline"}]}}`, ""),
		create("an event of a node", "/api/v1/namespaces/default/events", event(`{"kind":"Node","name":"`+e.node+`"}`, "quiesce"), ""),
		create("an event of a pod whose eviction is blocked", e.namespacePath+"/events", e.podEvent("", ""), ""),
		create("an event of a pod that is held", e.namespacePath+"/events", e.podEvent("EvictionBlocked", "EvictionHeld"), ""),
		create("an event of a pod whose eviction is refused", e.namespacePath+"/events", e.podEvent("EvictionBlocked", "EvictionRefused"), ""),
		create("an event of a pod whose clients wait", e.namespacePath+"/events", e.podEvent("EvictionBlocked", "ClientsPaused"), ""),
		create("an event of a pod whose clients go on", e.namespacePath+"/events",
			strings.Replace(e.podEvent("EvictionBlocked", "ClientsResumed"), "Warning", "Normal", 1), ""),
		create("a lease", "/apis/coordination.k8s.io/v1/namespaces/quiesce/leases", `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"i-attacker"}}`, ""),
	}
}

// An attacker with the function's role can do what a drain does, and no more.
func TestStolenRole_AnyRequest_OnlyThoseOfADrain(t *testing.T) {
	e := newAttackerEnv(t)
	e.awaitPolicies()
	for _, r := range e.refused() {
		t.Run("refused: "+r.what, func(t *testing.T) {
			err := r.send(t, e.client)
			require.True(t, r.isRefused(err), "%v", err)
			if !r.broken {
				require.NoError(t, r.send(t, e.admins), "others may")
			}
		})
	}
	for _, r := range e.allowed() {
		t.Run("allowed: "+r.what, func(t *testing.T) { require.NoError(t, r.send(t, e.client)) })
	}
}

// awaitPolicies waits until each policy is in force: the API server learns of a policy by a watch.
func (e *attackerEnv) awaitPolicies() {
	e.Helper()
	inForce := map[string]bool{}
	for _, r := range e.refused() {
		if r.policy != "" && !inForce[r.policy] {
			inForce[r.policy] = true
			e.eventually(func() bool { return r.isRefused(r.send(e.T, e.client)) })
		}
	}
}

// A policy that fails open, or applies to other users, is worse than none.
func TestPolicies_AllOfThem_DenyAndBindOnlyTheGroup(t *testing.T) {
	e := newAttackerEnv(t)
	policies, err := e.Client().AdmissionregistrationV1().ValidatingAdmissionPolicies().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	ours := slices.DeleteFunc(policies.Items, func(p admissionregistrationv1.ValidatingAdmissionPolicy) bool {
		return !strings.HasPrefix(p.Name, "quiesce-")
	})
	require.Len(t, ours, 8)
	e.awaitPolicies()
	for _, p := range ours {
		require.Equal(t, "Fail", string(*p.Spec.FailurePolicy), p.Name)
		require.Equal(t, "has(request.userInfo.groups) && 'quiesce' in request.userInfo.groups", p.Spec.MatchConditions[0].Expression, p.Name)
		e.eventually(func() bool { // a controller checks the types of expressions
			now, err := e.Client().AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), p.Name, metav1.GetOptions{})
			require.NoError(t, err)
			if now.Status.TypeChecking == nil {
				return false
			}
			require.Empty(t, now.Status.TypeChecking.ExpressionWarnings, p.Name)
			return true
		})
	}
}

// No request reaches these verbs without them, so the API server is asked about them.
func TestStolenRole_OtherIdentities_AreNotReachable(t *testing.T) {
	e := newLabEnv(t)
	for _, r := range []authorizationv1.ResourceAttributes{
		{Verb: "impersonate", Resource: "users"}, {Verb: "impersonate", Resource: "groups"}, {Verb: "impersonate", Resource: "serviceaccounts"},
		{Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Verb: "bind", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
		{Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}, {Verb: "create", Resource: "nodes", Subresource: "proxy"},
		{Verb: "approve", Group: "certificates.k8s.io", Resource: "signers"}, {Verb: "deletecollection", Resource: "pods"}, {Verb: "update", Resource: "nodes"},
		{Verb: "*", Resource: "*"},
	} {
		review, err := e.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "function", Groups: []string{"quiesce"}, ResourceAttributes: &r},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.False(t, review.Status.Allowed, "%+v", r)
	}
}
