package e2e

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// denial is a webhook's answer: why it denies a request, and with which HTTP status (0: 403). The zero denial allows the request.
type denial struct {
	why  string
	code int32
}

// guarded are the requests that a webhook is asked about.
type guarded struct {
	operation admissionregistrationv1.OperationType
	group     string // of the API
	resource  string // such as pods/eviction
	namespace string // empty: the resource has none, and the object is labeled with the fixture's group
}

// addEvictionWebhook adds a webhook for evictions in the fixture's namespace. It denies an eviction when guard returns a reason.
func (s *fixture) addEvictionWebhook(guard func(user string) (denied string)) {
	s.Helper()
	s.addWebhook(guarded{admissionregistrationv1.Create, "", "pods/eviction", s.group}, func(r *admissionv1.AdmissionRequest) denial {
		return denial{why: guard(r.UserInfo.Username)}
	})
}

// addWebhook adds a webhook for these requests, until the test ends.
func (s *fixture) addWebhook(g guarded, guard func(*admissionv1.AdmissionRequest) denial) {
	s.Helper()
	server := httptest.NewTLSServer(webhook(guard))
	s.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	hook := admissionregistrationv1.ValidatingWebhook{
		Name:                    "guard.quiesce.test",
		ClientConfig:            admissionregistrationv1.WebhookClientConfig{URL: &server.URL, CABundle: ca},
		FailurePolicy:           new(admissionregistrationv1.Ignore), // other tests continue when this one has closed its server
		SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
		TimeoutSeconds:          new(int32(30)),
		AdmissionReviewVersions: []string{"v1"},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{g.operation},
			Rule: admissionregistrationv1.Rule{
				APIGroups: []string{g.group}, APIVersions: []string{"v1"}, Resources: []string{g.resource},
			},
		}},
	}
	if g.namespace == "" {
		hook.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"group": s.group}}
	} else {
		hook.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: g.namespace}}
	}
	s.registerWebhook(g, hook)
}

func (s *fixture) registerWebhook(g guarded, hook admissionregistrationv1.ValidatingWebhook) {
	s.Helper()
	webhooks := s.Lab.Client().AdmissionregistrationV1().ValidatingWebhookConfigurations()
	name := s.group + "." + strings.ReplaceAll(g.resource, "/", ".")
	_, err := webhooks.Create(s.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionregistrationv1.ValidatingWebhook{hook},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, webhooks.Delete(s.ctx, name, metav1.DeleteOptions{})) })
}

// webhook answers as validating webhooks do
// (https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#response).
func webhook(guard func(*admissionv1.AdmissionRequest) denial) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		denied := guard(review.Request)
		review.Response = &admissionv1.AdmissionResponse{
			UID: review.Request.UID, Allowed: denied.why == "", Result: &metav1.Status{Message: denied.why, Code: denied.code},
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
}

// denyEvictions denies the function's first evictions, this many times, and all evictions by others.
func (s *fixture) denyEvictions(pod string, times int32, why string) {
	s.Helper()
	var denials atomic.Int32
	s.addEvictionWebhook(func(user string) string {
		if user == s.function.User && denials.Add(1) > times {
			return ""
		}
		return why
	})
	s.awaitDenied(pod, why)
}

// awaitDenied waits until an eviction of the pod by the admin is denied for this reason.
func (s *fixture) awaitDenied(pod, why string) {
	s.Helper()
	s.until("the webhook denies", func() (bool, error) {
		err := s.tryEviction(s.Lab.Client(), pod)
		return err != nil && strings.Contains(err.Error(), why), err
	})
}

// tryEviction sends an eviction as a dry run.
func (s *fixture) tryEviction(client kubernetes.Interface, pod string) error {
	found, err := s.Lab.Client().CoreV1().Pods(s.group).Get(s.ctx, pod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return client.CoreV1().Pods(s.group).EvictV1(s.ctx, &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: s.group},
		DeleteOptions: &metav1.DeleteOptions{
			DryRun: []string{metav1.DryRunAll}, Preconditions: &metav1.Preconditions{UID: &found.UID}, // as the policy demands
		},
	})
}
