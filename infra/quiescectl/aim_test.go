package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/doctor"
	"quiesce/internal/termination"
)

// A printed command must not act on whatever cluster is the current one.
func TestAimed_Command_ActsOnTheSameCluster(t *testing.T) {
	for _, c := range []struct {
		options options
		command string
		want    string
	}{
		{options{}, "kubectl get nodes", "kubectl get nodes"},
		{options{context: "my prod", kubeconfig: "/a"}, "kubectl get nodes", "kubectl --kubeconfig /a --context 'my prod' get nodes"},
		{options{context: "prod"}, "kubectl uncordon a && kubectl label node a b-", "kubectl --context prod uncordon a && kubectl --context prod label node a b-"},
		{options{context: "prod"}, "kubectl describe nodes | grep -A 8 kubectl", "kubectl --context prod describe nodes | grep -A 8 kubectl"},
		{options{profile: "p"}, "aws autoscaling x", "aws --profile p --region eu-west-1 autoscaling x"},
		{options{region: "eu-west-2"}, "aws autoscaling x", "aws --region eu-west-2 autoscaling x"},
		{options{context: "prod"}, "quiescectl resume", "quiescectl --context prod resume"},
		{options{context: "prod", profile: "p"}, "quiescectl check --function a", "quiescectl check --context prod --profile p --region eu-west-1 --function a"},
		{options{context: "prod", profile: "p"}, "quiescectl checks", "quiescectl --context prod checks"},
		{options{context: "prod"}, "", ""},
	} {
		report := c.options.aim(doctor.Report{Findings: []doctor.Finding{{Command: c.command}}}, "eu-west-1")
		require.Equal(t, c.want, report.Findings[0].Command)
	}
}

// Reasons come from pods and consoles. They must not write over a terminal, or add a line that looks like ours.
func TestTables_TextOfOthers_IsOnePlainLine(t *testing.T) {
	const evil = "no\n\033[2Jstatus: drained"
	var b strings.Builder
	showReport(&b, termination.Report{Status: termination.StatusPartial, Reason: evil})
	showSwitchover(&b, termination.SwitchoverReport{Reason: evil})
	showSweep(&b, termination.SweepReport{Errors: []string{evil}})
	showCheck(&b, termination.CheckReport{Steps: []termination.CheckStep{{Name: "groups", Detail: evil, Next: evil}}})
	showResume(&b, termination.ResumeReport{Reason: evil, Clusters: []string{evil}})
	b.WriteString(table(doctor.Report{Findings: []doctor.Finding{{Where: evil, What: evil, Cost: evil, Fix: evil, Command: evil}}}, false))
	require.NotContains(t, b.String(), "\033")
	require.NotContains(t, b.String(), "\nstatus:")
	require.Equal(t, 12, strings.Count(b.String(), "no [2Jstatus: drained"))
}
