package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/escort"
)

// An attacker with the function's role has all its permissions. So escorts need each permission of their role, and an error names
// the one that is missing.
func TestPoolerRole_AnyPermissionMissing_IsNamed(t *testing.T) {
	e := newLabEnv(t)
	e.apply(statefulSetManifest)
	e.apply(deploymentManifest)
	replica, member := e.inspect(&e.awaitReady("track=stable", 2)[0]), e.inspect(e.awaitPod("pooler-0"))
	require.Empty(t, e.refusals(e.client, replica, member))
	for i, missing := range e.permissionsOf("quiesce-poolers") {
		t.Run(missing.String(), func(t *testing.T) {
			group := fmt.Sprintf("%s-%d", e.namespace, i)
			e.grantAllBut(missing, group)
			client := clientInGroup(t, e.Lab, group)
			require.Eventually(t, func() bool {
				failures := e.refusals(client, replica, member)
				return len(failures) > 0 && !slices.ContainsFunc(failures, func(err error) bool { return !missing.isMissing(err) })
			}, waitTimeout, pollInterval)
		})
	}
}

// awaitPod waits until a controller has created the pod, and returns it.
func (e *labEnv) awaitPod(name string) *corev1.Pod {
	e.Helper()
	e.eventually(func() bool {
		_, err := e.Client().CoreV1().Pods(e.namespace).Get(e.Context(), name, metav1.GetOptions{})
		return err == nil
	})
	return e.pod(name)
}

// refusals sends each request of an escort about these pods and returns the errors. Leases have a role of their own.
func (e *labEnv) refusals(client *Client, pods ...escort.Pod) (failures []error) {
	e.Helper()
	for _, p := range pods {
		_, inspect := client.Inspect(e.Context(), p.Ref)
		_, selectors := client.Selectors(e.Context(), p)
		_, peers := client.Peers(e.Context(), p)
		_, serving := client.Serving(e.Context(), p.Ref)
		failures = append(failures, inspect, selectors, peers, serving, client.PatchLabels(e.Context(), p.Ref, nil))
	}
	return slices.DeleteFunc(failures, func(err error) bool { return err == nil })
}

// permission is one verb on one resource.
type permission struct{ group, resource, verb string }

func (r permission) String() string { return r.verb + " " + r.resource }

func (r permission) isMissing(err error) bool {
	named := fmt.Sprintf("cannot %s resource %q in API group %q", r.verb, r.resource, r.group)
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), named)
}

func (e *labEnv) permissionsOf(role string) (permissions []permission) {
	e.Helper()
	for _, rule := range e.rulesOf(role) {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				permissions = append(permissions, permission{rule.APIGroups[0], resource, verb})
			}
		}
	}
	require.NotEmpty(e, permissions)
	return permissions
}

func (e *labEnv) rulesOf(role string) []rbacv1.PolicyRule {
	e.Helper()
	found, err := e.Client().RbacV1().ClusterRoles().Get(e.Context(), role, metav1.GetOptions{})
	require.NoError(e, err)
	return found.Rules
}

// grantAllBut gives a group all permissions of the function in the cluster except one.
func (e *labEnv) grantAllBut(r permission, group string) {
	e.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: group}}
	for _, rule := range slices.Concat(e.rulesOf("quiesce"), e.rulesOf("quiesce-poolers")) {
		for _, resource := range rule.Resources {
			verbs := slices.DeleteFunc(slices.Clone(rule.Verbs), func(verb string) bool {
				return permission{rule.APIGroups[0], resource, verb} == r
			})
			if len(verbs) > 0 {
				role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: rule.APIGroups, Resources: []string{resource}, Verbs: verbs})
			}
		}
	}
	rbac := e.Client().RbacV1()
	_, err := rbac.ClusterRoles().Create(e.Context(), role, metav1.CreateOptions{})
	require.NoError(e, err)
	_, err = rbac.ClusterRoleBindings().Create(e.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: group},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: group},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}, metav1.CreateOptions{})
	require.NoError(e, err)
}
