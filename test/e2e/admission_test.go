package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Permission to patch pods is permission to run anything in them. A stolen role of the function gets only the pods' labels.
func TestAdmission_FunctionsRole_MayOnlyLabelPods(t *testing.T) {
	s := newFixture(t, 1)
	s.runPodOn(s.instances[0], "web", func(p *corev1.Pod) { p.Annotations = map[string]string{"team": "a"} })
	thief := s.clientAs("thief", "quiesce")
	s.until("the policy is in force", func() (bool, error) {
		err := s.patchWeb(thief, `{"spec": {"activeDeadlineSeconds": 1}}`, metav1.DryRunAll)
		return isRefusedByPolicy(err), err
	})

	for _, patch := range []string{
		`{"spec": {"containers": [{"name": "main", "image": "miner"}]}}`,
		`{"metadata": {"labels": {"app": "other"}}, "spec": {"activeDeadlineSeconds": 1}}`,
		`{"metadata": {"finalizers": ["example.com/never"]}}`,
		`{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "none"}]}}`,
		`{"metadata": {"annotations": {"quiesce/drain": "false"}}}`,
		`{"metadata": {"annotations": {"team": "b"}}}`,
		`{"metadata": {"annotations": {"team": null}}}`,
		`{"metadata": {"annotations": null}}`,
		`{"metadata": {"annotations": {"quiesce/escort-state": "surge"}}}`,
	} {
		err := s.patchWeb(thief, patch)
		require.True(t, isRefusedByPolicy(err), "%s: %v", patch, err)
		require.NoError(t, s.patchWeb(s.Lab.Client(), patch, metav1.DryRunAll), "others may: %s", patch)
	}
	for _, patch := range []string{
		`{"metadata": {"labels": {"quiesce/escort-state": "surge", "app": null}}}`,
		`{"metadata": {"labels": {"quiesce/escort-state": null, "app": "web"}}}`,
	} {
		require.NoError(t, s.patchWeb(thief, patch), patch)
	}
}

// isRefusedByPolicy reports whether the error names the policy. Only the text has the name.
func isRefusedByPolicy(err error) bool {
	return err != nil && strings.Contains(err.Error(), "'quiesce-pods' denied")
}

func (s *fixture) patchWeb(as kubernetes.Interface, patch string, dryRun ...string) error {
	_, err := as.CoreV1().Pods(s.group).Patch(
		s.ctx, "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dryRun})
	return err
}
