package e2e

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// The API server sends the same status code for a PDB without room and for its own overload. A drain must not report a PDB that
// does not exist, nor wait for one.
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

// rushUser is a user who keeps the API server busy.
const rushUser = "rush"

// overloadAPIServer makes the API server's flow control reject the function's evictions of a pod until relieve is called. They
// share a priority level without seats with the evictions of rushUser, one of which is always in progress
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
		case <-time.After(time.Second): // rejected, or the webhook is not active yet
		}
		err := s.tryEviction(function, pod)
		return apierrors.IsTooManyRequests(err), err
	})
	return relieve
}

// limitToNoSeats gives these users' evictions a priority level that admits one request at a time and rejects the others.
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
			MatchingPrecedence:         2, // precedence 1 is taken
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

// clientAs returns a client that impersonates this user. The audit log counts its requests as the admin's.
func (s *fixture) clientAs(user string, groups ...string) kubernetes.Interface {
	s.Helper()
	config := s.Lab.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	client, err := kubernetes.NewForConfig(config)
	require.NoError(s, err)
	return client
}
