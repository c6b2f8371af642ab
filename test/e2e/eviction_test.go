package e2e

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// An eviction of one of these would do harm or never end. The drain that waits for them instead never ends either.
func TestEvict_PodsToSkip_Remain(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.daemonSet("agent")
	s.finishedJob("report")
	s.runPodOn(node, "static", annotated(corev1.MirrorPodAnnotationKey, "checksum"))
	s.runPodOn(node, "opted-out", annotated(drain.OptOutAnnotation, "false"))
	s.runPodOn(node, "web")

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, report.Pods, 5)
	reasons := map[string]string{}
	for _, pod := range report.Pods {
		require.Equal(t, pod.Verdict == drain.Skip, pod.Outcome == drain.Remained)
		reasons[s.appOf(pod)] = pod.Reason
	}
	require.Contains(t, reasons["agent"], "DaemonSet")
	require.Contains(t, reasons["report"], "finished")
	require.Contains(t, reasons["static"], "static pod")
	require.Contains(t, reasons["opted-out"], "quiesce/drain=false")
	require.Len(t, s.evictions(""), 1)
	require.Len(t, s.evictions("web"), 1)
}

// Their owners said that an eviction costs them dearly: a training run of days, say.
func TestHeldPodsAreNotEvicted(t *testing.T) {
	s := newFixture(t, 1, shortDeadlineKeep)
	node := s.instances[0]
	s.runPodOn(node, "unsafe", annotated("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"))
	s.runPodOn(node, "undisrupted", annotated("karpenter.sh/do-not-disrupt", "true"))
	s.runPodOn(node, "web")

	report := s.drain(node)
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Equal(t, termination.Continue, report.LifecycleResult)
	for _, name := range []string{"unsafe", "undisrupted"} {
		require.Equal(t, drain.Hold, report.pod(t, name).Verdict)
		require.Equal(t, drain.Remained, report.pod(t, name).Outcome)
		require.Empty(t, s.evictions(name))
	}
	require.Equal(t, drain.Evicted, report.pod(t, "web").Outcome)
}

// Webhooks guard databases by denying evictions until they have failed over. A drain that took one denial for an answer
// would leave just those pods.
func TestEvict_WebhookDeniesForAWhile_Delayed(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.runPodOn(node, "db")
	const denials = 3
	s.denyEvictions("db", denials, "the primary has not failed over")

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Equal(t, drain.Evicted, report.pod(t, "db").Outcome)
	require.Contains(t, s.function.Output(), "the primary has not failed over")
	asked := s.evictions("db")
	require.Len(t, asked, denials+1)
	for i := range denials {
		require.GreaterOrEqual(t, asked[i+1].Time.Sub(asked[i].Done), 200*time.Millisecond<<i, "each wait is twice the one before")
	}
}

// The same status code says that a budget is short and that the server is; who takes one for the other waits for a budget
// that does not exist, or reports it to somebody who looks for it.
func TestEvict_ServerOverloaded_NotReportedAsPDB(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.runPodOn(node, "web")
	relieve := s.overloadAPIServer("web")
	end := s.begin(node)
	s.until("evictions were rejected", func() (bool, error) {
		return len(answered(s.evictions("web"), http.StatusTooManyRequests)) >= 2, nil
	})
	relieve()

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Equal(t, drain.Evicted, report.pod(t, "web").Outcome)
	require.Empty(t, report.pod(t, "web").BlockedBy)
	require.Contains(t, s.function.Output(), "throttled by the API server")
	require.NotContains(t, verbsOn(s.requests(s.function), "poddisruptionbudgets"), "watch")
}

// A StatefulSet's pod comes back under its name. Evicting that one would take a healthy replica from a healthy node.
func TestEvict_NewPodOfSameName_NotEvicted(t *testing.T) {
	s := newFixture(t, 2)
	s.statefulSet("db")
	target := s.hostOf("db")
	first := s.podsOn(target)[0]
	s.runPodOn(target, "slow", stopsAfter("4s")) // the drain goes on while the name is back
	end := s.begin(target)
	reborn := s.awaitSuccessor(first)

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, s.evictions("db-0"), 1)
	require.Equal(t, string(first.UID), report.pod(t, "db-0").UID)
	current, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, "db-0", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, reborn.UID, current.UID)
	require.Nil(t, current.DeletionTimestamp)
	require.NotEqual(t, target.Node, current.Spec.NodeName)
}

// Such a pod's successor is on the same node a moment later, and the successor's: a drain that evicts what is there evicts
// without end.
func TestEvict_PodReturnsToNode_EvictedOnce(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.deploy("stubborn", 1, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.StopAfter: "2s"}
		d.Spec.Template.Spec.NodeSelector[corev1.LabelHostname] = node.Node
		d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	})
	first := s.podsOn(node)[0]

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Len(t, s.evictions(""), 1)
	require.Len(t, report.Pods, 2)
	require.Equal(t, drain.Evicted, report.pod(t, first.Name).Outcome)
	successor := s.podsOn(node)[0]
	require.Equal(t, drain.Remained, report.pod(t, successor.Name).Outcome)
	require.Contains(t, report.pod(t, successor.Name).Reason, "came back")
}

// What holds the pod is gone or broken, and nobody can be asked. The instance must not be held with it.
func TestEvict_FinalizerStays_ReportedAtDeadline(t *testing.T) {
	s := newFixture(t, 1, shortDeadlineKeep)
	node := s.instances[0]
	s.runPodOn(node, "kept", func(p *corev1.Pod) { p.Finalizers = []string{"quiesce.test/never"} })
	t.Cleanup(func() { s.removeFinalizers("kept") })

	report := s.drain(node)
	require.Equal(t, termination.StatusPartial, report.Status, report.ErrorMessage)
	require.Equal(t, termination.Continue, report.LifecycleResult)
	pod := report.pod(t, "kept")
	require.Equal(t, drain.Remained, pod.Outcome)
	require.NotZero(t, pod.EvictedAt)
	require.NotEmpty(t, pod.Reason)
	require.Len(t, s.evictions("kept"), 1)
}

const inThreePhases = `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pgbouncer}, settle: 1s}
  - {name: workloads}
  - {name: critical, match: {priorityClassNames: [system-cluster-critical]}}
`

// Workers that outlive their pooler hang; pods that outlive their DNS fail. The order is what the tool is for.
func TestPhases_Several_OneAfterTheOther(t *testing.T) {
	s := newFixture(t, 1, inThreePhases)
	node := s.instances[0]
	s.runPodOn(node, "dns", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" })
	s.runPodOn(node, "worker")
	s.runPodOn(node, "pooler", labelled("app.kubernetes.io/name", "pgbouncer"))

	report := s.drain(node)
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	pooler, worker, dns := report.pod(t, "pooler"), report.pod(t, "worker"), report.pod(t, "dns")
	require.GreaterOrEqual(t, worker.EvictedAt.Sub(pooler.GoneAt), time.Second, "the poolers settle")
	require.False(t, dns.EvictedAt.Before(worker.GoneAt))
	require.Len(t, report.Phases, 3)
	for i, name := range []string{"poolers", "workloads", "critical"} {
		require.Equal(t, name, report.Phases[i].Name)
		require.False(t, report.Phases[i].FinishedAt.Before(report.Phases[i].StartedAt))
	}
	asked := s.evictions("")
	require.Equal(t, []string{"pooler", "worker", "dns"}, []string{asked[0].Name, asked[1].Name, asked[2].Name})
}

// A phase that is stuck costs its own pods. It must not cost those of every phase behind it.
func TestPhases_FirstBlocked_NextStartsAtTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	s := newFixture(t, 2, `
phases:
  - {name: poolers, match: {labelSelector: app.kubernetes.io/name=pgbouncer}, timeout: 2s}
  - {name: workloads}
`)
	s.deploy("pooler", 1, func(d *appsv1.Deployment) { d.Spec.Template.Labels["app.kubernetes.io/name"] = "pgbouncer" })
	s.pdb("pooler", "pooler", 0)
	target := s.hostOf("pooler")
	pooler := s.podsOn(target)[0].Name
	s.runPodOn(target, "worker")
	end := s.begin(target)
	s.awaitGone("worker")
	s.removePDB("pooler")

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.GreaterOrEqual(t, report.pod(t, "worker").EvictedAt.Sub(report.Phases[0].StartedAt), timeout)
	require.Equal(t, drain.Evicted, report.pod(t, pooler).Outcome, "its own pods stay wanted")
	require.True(t, report.pod(t, "worker").EvictedAt.Before(report.pod(t, pooler).EvictedAt))
}

// A pod may be bound in the moment of the cordon, or by somebody who needs no scheduler. It would die unsignalled.
func TestEvict_PodArrivesDuringDrain_Evicted(t *testing.T) {
	s := newFixture(t, 1)
	node := s.instances[0]
	s.deploy("early", 1)
	s.pdb("early", "early", 0)
	end := s.begin(node)
	s.awaitLogs("eviction blocked") // the drain is under way, and goes on until somebody lets it end
	late := s.createPod("late", pinned(node))
	s.awaitGone("late")
	s.removePDB("early")

	report := end()
	require.Equal(t, termination.StatusDrained, report.Status, report.ErrorMessage)
	require.Equal(t, string(late.UID), report.pod(t, "late").UID)
	require.Equal(t, drain.Evicted, report.pod(t, "late").Outcome)
}

// pinned binds a pod to one of the scene's nodes, without the scheduler.
func pinned(i env.Instance) func(*corev1.Pod) {
	return func(p *corev1.Pod) { onNode(i)(&p.Spec) }
}

func annotated(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
}

func labelled(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { metav1.SetMetaDataLabel(&p.ObjectMeta, key, value) }
}

// awaitGone waits until no pod has the name.
func (s *fixture) awaitGone(pod string) {
	s.Helper()
	s.until("pod "+pod+" is gone", func() (bool, error) {
		_, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, pod, metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// awaitSuccessor waits until another pod has the pod's name, and runs.
func (s *fixture) awaitSuccessor(pod corev1.Pod) (reborn *corev1.Pod) {
	s.Helper()
	s.until("pod "+pod.Name+" is reborn", func() (_ bool, err error) {
		reborn, err = s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, pod.Name, metav1.GetOptions{})
		return err == nil && reborn.UID != pod.UID && reborn.Status.Phase == corev1.PodRunning, err
	})
	return reborn
}

// appOf is the app of the pod that a line of the report is about.
func (s *fixture) appOf(line drain.PodReport) string {
	s.Helper()
	for _, i := range s.instances {
		for _, p := range s.podsOn(i) {
			if string(p.UID) == line.UID {
				return p.Labels["app"]
			}
		}
	}
	return line.Name
}

// daemonSet runs a DaemonSet's pod on each of the scene's nodes.
func (s *fixture) daemonSet(app string) {
	s.Helper()
	daemons := s.Lab.Client().AppsV1().DaemonSets(s.group)
	_, err := daemons.Create(s.ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: s.template(app),
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("daemon "+app+" runs everywhere", func() (bool, error) {
		d, err := daemons.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && int(d.Status.NumberReady) == len(s.instances), err
	})
}

// finishedJob runs a Job to its end. Its pod stays.
func (s *fixture) finishedJob(app string) {
	s.Helper()
	template := s.template(app)
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	jobs := s.Lab.Client().BatchV1().Jobs(s.group)
	_, err := jobs.Create(s.ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: batchv1.JobSpec{Template: template},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("job "+app+" has succeeded", func() (bool, error) {
		j, err := jobs.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && j.Status.Succeeded == 1, err
	})
}

// statefulSet runs a StatefulSet of one.
func (s *fixture) statefulSet(app string) {
	s.Helper()
	sets := s.Lab.Client().AppsV1().StatefulSets(s.group)
	_, err := sets.Create(s.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: s.template(app),
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.until("set "+app+" is ready", func() (bool, error) {
		set, err := sets.Get(s.ctx, app, metav1.GetOptions{})
		return err == nil && set.Status.ReadyReplicas == 1, err
	})
}

func (s *fixture) removeFinalizers(pod string) {
	_, err := s.Lab.Client().CoreV1().Pods(s.group).Patch(s.ctx, pod, types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	require.NoError(s, err)
}

// addEvictionWebhook puts a webhook in the way of evictions in the scene's namespace: it denies those for which guard has a reason.
func (s *fixture) addEvictionWebhook(guard func(user string) (denied string)) {
	s.Helper()
	server := httptest.NewTLSServer(webhook(guard))
	s.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	webhooks := s.Lab.Client().AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := webhooks.Create(s.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: s.group},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:                    "guard.quiesce.test",
			ClientConfig:            admissionregistrationv1.WebhookClientConfig{URL: &server.URL, CABundle: ca},
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(30)),
			AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.group}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/eviction"},
				},
			}},
		}},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, webhooks.Delete(s.ctx, s.group, metav1.DeleteOptions{})) })
}

// webhook answers as validating webhooks do
// (https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#response).
func webhook(guard func(user string) (denied string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		denied := guard(review.Request.UserInfo.Username)
		review.Response = &admissionv1.AdmissionResponse{
			UID: review.Request.UID, Allowed: denied == "", Result: &metav1.Status{Message: denied},
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
}

// denyEvictions denies the function's first so many evictions, and everybody else's.
func (s *fixture) denyEvictions(pod string, times int32, why string) {
	s.Helper()
	var denials atomic.Int32
	s.addEvictionWebhook(func(user string) string {
		if user == s.function.User && denials.Add(1) > times {
			return ""
		}
		return why
	})
	s.until("the webhook denies", func() (bool, error) {
		err := s.tryEviction(s.Lab.Client(), pod)
		return err != nil && strings.Contains(err.Error(), why), err
	})
}

// tryEviction asks for an eviction, and changes nothing.
func (s *fixture) tryEviction(client kubernetes.Interface, pod string) error {
	return client.CoreV1().Pods(s.group).EvictV1(s.ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: pod, Namespace: s.group},
		DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
	})
}

// rushUser is a user who keeps the API server busy.
const rushUser = "rush"

// overloadAPIServer has the API server's own flow control reject the function's evictions of a pod until relieve is called. They share
// a priority level without seats with those of the rush hour, of which one is under way all the time
// (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/).
func (s *fixture) overloadAPIServer(pod string) (relieve func()) {
	s.Helper()
	s.limitToNoSeats(s.function.User, rushUser)
	underWay, relieved := make(chan struct{}, 1), make(chan struct{})
	s.addEvictionWebhook(func(user string) string {
		if user != rushUser {
			return ""
		}
		select {
		case underWay <- struct{}{}:
		default:
		}
		<-relieved
		return "enough"
	})
	relieve = sync.OnceFunc(func() { close(relieved) })
	s.Cleanup(relieve)
	busy, function := s.clientAs(rushUser, "quiesce"), s.clientAs(s.function.User, "quiesce")
	s.until("evictions are rejected", func() (bool, error) {
		go func() { _ = s.tryEviction(busy, pod) }()
		select {
		case <-underWay:
		case <-time.After(time.Second): // rejected, or the webhook is not in place yet
		}
		err := s.tryEviction(function, pod)
		return apierrors.IsTooManyRequests(err), err
	})
	return relieve
}

// limitToNoSeats gives these users' evictions a priority level where one at a time gets through, and others are rejected.
func (s *fixture) limitToNoSeats(users ...string) {
	s.Helper()
	flow := s.Lab.Client().FlowcontrolV1()
	_, err := flow.PriorityLevelConfigurations().Create(s.ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: s.group},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: new(int32(0)), BorrowingLimitPercent: new(int32(0)),
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	_, err = flow.FlowSchemas().Create(s.ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: s.group},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: s.group},
			MatchingPrecedence:         2, // the first is taken
			Rules:                      []flowcontrolv1.PolicyRulesWithSubjects{s.evictionRules(users)},
		},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
}

func (s *fixture) evictionRules(users []string) flowcontrolv1.PolicyRulesWithSubjects {
	rule := flowcontrolv1.PolicyRulesWithSubjects{ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
		Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Namespaces: []string{s.group},
	}}}
	for _, user := range users {
		rule.Subjects = append(rule.Subjects, flowcontrolv1.Subject{
			Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: user},
		})
	}
	return rule
}

// clientAs is a client that the API server treats as that user's, though its requests are counted as the admin's.
func (s *fixture) clientAs(user string, groups ...string) kubernetes.Interface {
	s.Helper()
	config := s.Lab.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	client, err := kubernetes.NewForConfig(config)
	require.NoError(s, err)
	return client
}
