package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

// check invokes one check, and returns its steps by name.
func (s *fixture) check() (report termination.CheckReport, steps map[string]termination.CheckStep) {
	s.Helper()
	return s.checkBy(s.function)
}

func (s *fixture) checkBy(f *env.Function) (report termination.CheckReport, steps map[string]termination.CheckStep) {
	s.Helper()
	result := s.sendTo(f, read(s.T, "check"))
	require.Empty(s, result.ErrorType, result.ErrorMessage)
	require.NoError(s, json.Unmarshal(result.Payload, &report), "%s", result.Payload)
	steps = map[string]termination.CheckStep{}
	for _, step := range report.Steps {
		steps[step.Name] = step
	}
	return report, steps
}

// It goes the whole path with the real permissions, policies and PDBs, and must not cost a pod or a PDB's room.
func TestCheck_PathWorks_NothingChanges(t *testing.T) {
	s := newFixture(t, 1)
	s.deploy("web", 2)
	s.pdb("web", "web", 1)
	before := uids(s.podsOn(s.instances[0]))
	report, steps := s.check()
	require.Equal(t, termination.StatusChecked, report.Status, "%+v", report.Steps)
	require.Equal(t, "hook quiesce in all 1 groups", steps["hooks"].Detail)
	require.Equal(t, s.instances[0].ID+" is "+s.instances[0].Node, steps["nodes"].Detail)
	require.Contains(t, steps["eviction"].Detail, "could be evicted")
	require.Equal(t, before, uids(s.podsOn(s.instances[0])))
	for _, pod := range s.podsOn(s.instances[0]) {
		require.Nil(t, pod.DeletionTimestamp)
	}
	pdb, err := s.Lab.Client().PolicyV1().PodDisruptionBudgets(s.group).Get(s.ctx, "web", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, pdb.Status.DisruptionsAllowed)
	changing := writes(s.requests(s.function))
	require.Len(t, changing, 1)
	require.Contains(t, changing[0], "create pods/eviction")
	s.requireOnlyCalls(readOnlyCalls...)
	require.Contains(t, s.function.Output(), `"Checks":1,"ChecksFailed":0`)

	s.pdb("never", "web", 0) // two PDBs select the pod: no eviction is possible, and the path is as good as before
	report, steps = s.check()
	require.Equal(t, termination.StatusChecked, report.Status, "%+v", report.Steps)
	require.Contains(t, steps["eviction"].Detail, "once its PDB allows that")
}

// A PDB is asked last. Its refusal shows that everything before it works.
func TestCheck_PDBAllowsNothing_Succeeds(t *testing.T) {
	s := newFixture(t, 1)
	s.deploy("web", 1)
	s.pdb("web", "web", 0)
	report, steps := s.check()
	require.Equal(t, termination.StatusChecked, report.Status, "%+v", report.Steps)
	require.Contains(t, steps["eviction"].Detail, "once its PDB allows that")
	require.Len(t, s.evictions(""), 1)
}

// A token for a cluster that does not know the function: the access entry is missing.
func TestCheck_ClusterDoesNotKnowTheFunction_NamesTheAccessEntry(t *testing.T) {
	s := newFixture(t, 1)
	s.AWS.AddCluster(s.group, s.Lab.Endpoint(), s.Lab.CA())
	report, steps := s.checkBy(s.start("autoScalingGroups: [\""+s.group+"\"]\nmode: drain", "CLUSTER_NAME="+s.group))
	require.Equal(t, []string{"leases", "nodes", "pods", "eviction"}, report.Failed())
	require.Contains(t, steps["leases"].Detail, "Unauthorized")
	require.Contains(t, steps["leases"].Next, "access entry")
	require.Contains(t, steps["nodes"].Next, "access entry")
	require.Equal(t, "see the step pods", steps["eviction"].Next)
}

func TestCheck_PermissionMissing_NamesIt(t *testing.T) {
	own := ownEnv(t)
	for p, failed := range map[permission]string{
		{"", "pods/eviction", "create"}:           "eviction",
		{"coordination.k8s.io", "leases", "list"}: "leases",
		{"", "nodes", "get"}:                      "nodes",
		{"", "pods", "watch"}:                     "pods",
	} {
		t.Run(p.String(), func(t *testing.T) {
			s := newFixtureOn(t, own, 1)
			s.deploy("web", 1)
			s.without(p)
			report, steps := s.check()
			require.Equal(t, termination.StatusFailed, report.Status)
			require.Equal(t, failed, report.Failed()[0])
			require.Contains(t, steps[failed].Detail, "forbidden")
			require.Equal(t, "kubectl apply -f infra/rbac.yaml", steps[failed].Next)
			require.True(t, steps["groups"].OK && steps["hooks"].OK)
			require.Contains(t, s.function.Output(), `"msg":"check failed"`)
			require.Contains(t, s.function.Output(), `"Checks":1,"ChecksFailed":1`)
			require.Contains(t, strings.ToLower(steps[failed].Detail), p.verb)
		})
	}
}

// It is the last step of make deploy, with the real function behind Lambda's API.
func TestAfterDeploy_RealFunction_PrintsTheCheck(t *testing.T) {
	s := newFixture(t, 1)
	s.deploy("web", 1)
	s.AWS.AddFunction(s.group, func(ctx context.Context, payload []byte) ([]byte, string, error) {
		result, err := s.function.Invoke(ctx, payload)
		return result.Payload, result.ErrorType, err
	})
	topic := s.AWS.AddTopic(s.group, awstest.Subscription{Protocol: "email", SubscriptionArn: awstest.Pending})
	outputs := filepath.Join(t.TempDir(), "outputs.json")
	function := "arn:aws:lambda:" + awstest.Region + ":" + awstest.Account + ":function:" + s.group + ":live"
	require.NoError(t, os.WriteFile(outputs, fmt.Appendf(nil, `{"stack":{"Function":%q,"Alarms":%q}}`, function, topic), 0o600))
	program := filepath.Join(t.TempDir(), "afterdeploy")
	root, err := env.Root()
	require.NoError(t, err)
	build := exec.CommandContext(s.ctx, "go", "build", "-o", program, "./infra/afterdeploy")
	build.Dir = root
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)
	deploy := exec.CommandContext(s.ctx, program, outputs)
	deploy.Env = s.AWS.Environment(s.AWS.Session("deployer"))
	text, err = deploy.CombinedOutput()
	require.NoError(t, err, "%s", text)
	for _, step := range []string{"groups", "hooks", "queue", "cluster", "leases", "nodes", "pods", "eviction"} {
		require.Regexp(t, `(?m)^  ok +`+step+` `, string(text))
	}
	require.Regexp(t, `WARNING +alarms +alarms reach no one: 1 subscribers, none confirmed`, string(text))
}
