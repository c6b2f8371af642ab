package kube

import (
	"fmt"
	"quiesce/internal/escort"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the function may do is what somebody who steals its role may do: every right of escorts is one that they need, and each
// without which they cannot go on is named.
func TestEveryRightOfEscortsIsNeeded(t *testing.T) {
	s := setScene(t)
	s.apply(setManifest)
	s.apply(groupManifest)
	replica, member := s.inspect(&s.ready("track=stable", 2)[0]), s.inspect(s.awaited("pooler-0"))
	require.Empty(t, s.everything(s.client, replica, member))
	for i, right := range s.rightsOf("quiesce-poolers") {
		t.Run(right.String(), func(t *testing.T) {
			group := fmt.Sprintf("%s-%d", s.namespace, i)
			s.grantAllBut(right, group)
			client := clientOf(t, s.Lab, group)
			require.Eventually(t, func() bool {
				faults := s.everything(client, replica, member)
				return len(faults) > 0 && !slices.ContainsFunc(faults, func(err error) bool { return !right.isMissed(err) })
			}, patience, glance)
		})
	}
}

// awaited is a pod that a controller is to make.
func (s *scene) awaited(name string) *corev1.Pod {
	s.Helper()
	s.until(func() bool {
		_, err := s.Client().CoreV1().Pods(s.namespace).Get(s.Context(), name, metav1.GetOptions{})
		return err == nil
	})
	return s.pod(name)
}

// everything is what an escort asks about pods, and what was refused of it. Leases have a role of their own.
func (s *scene) everything(client *Client, pods ...escort.Pod) (faults []error) {
	s.Helper()
	for _, p := range pods {
		_, inspect := client.Inspect(s.Context(), p.Ref)
		_, around := client.Selectors(s.Context(), p)
		_, peers := client.Peers(s.Context(), p)
		_, serving := client.Serving(s.Context(), p.Ref)
		faults = append(faults, inspect, around, peers, serving, client.PatchLabels(s.Context(), p.Ref, nil))
	}
	return slices.DeleteFunc(faults, func(err error) bool { return err == nil })
}

// right is one verb on one resource.
type right struct{ group, resource, verb string }

func (r right) String() string { return r.verb + " " + r.resource }

func (r right) isMissed(err error) bool {
	named := fmt.Sprintf("cannot %s resource %q in API group %q", r.verb, r.resource, r.group)
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), named)
}

func (s *scene) rightsOf(role string) (rights []right) {
	s.Helper()
	for _, rule := range s.rulesOf(role) {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				rights = append(rights, right{rule.APIGroups[0], resource, verb})
			}
		}
	}
	require.NotEmpty(s, rights)
	return rights
}

func (s *scene) rulesOf(role string) []rbacv1.PolicyRule {
	s.Helper()
	found, err := s.Client().RbacV1().ClusterRoles().Get(s.Context(), role, metav1.GetOptions{})
	require.NoError(s, err)
	return found.Rules
}

// grantAllBut gives a group all that the function may do in the cluster, without one right.
func (s *scene) grantAllBut(r right, group string) {
	s.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: group}}
	for _, rule := range slices.Concat(s.rulesOf("quiesce"), s.rulesOf("quiesce-poolers")) {
		for _, resource := range rule.Resources {
			verbs := slices.DeleteFunc(slices.Clone(rule.Verbs), func(verb string) bool {
				return right{rule.APIGroups[0], resource, verb} == r
			})
			if len(verbs) > 0 {
				role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: rule.APIGroups, Resources: []string{resource}, Verbs: verbs})
			}
		}
	}
	rbac := s.Client().RbacV1()
	_, err := rbac.ClusterRoles().Create(s.Context(), role, metav1.CreateOptions{})
	require.NoError(s, err)
	_, err = rbac.ClusterRoleBindings().Create(s.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: group},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: group},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}, metav1.CreateOptions{})
	require.NoError(s, err)
}
