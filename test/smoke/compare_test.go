package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// good returns what is observed when everything is as it should be. Times are seconds after a moment.
func good() observed {
	at := func(seconds int) time.Time {
		return time.Date(2026, 3, 1, 8, 15, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
	}
	pod := func(name string, evicted, gone int) drain.PodReport {
		return drain.PodReport{Namespace: namespace, Name: name, Outcome: drain.Evicted, EvictedAt: at(evicted), GoneAt: at(gone)}
	}
	seen := func(name, app string, gone int) podRecord {
		return podRecord{Name: name, App: app, Record: signaled + " 08:15:03", Gone: at(gone)}
	}
	return observed{
		group: "scratch", instance: "i-0", node: "ip-10-0-0-1", fewest: 1, waited: true, released: at(12),
		report: termination.Report{
			Status: termination.StatusDrained, LifecycleResult: termination.Continue, Group: "scratch", InstanceID: "i-0", Node: "ip-10-0-0-1",
			StartedAt: at(1), FinishedAt: at(10), Deadline: at(600),
			Report: drain.Report{Pods: []drain.PodReport{
				pod("plain-a", 2, 4), pod("web-a", 2, 4), pod("web-b", 6, 8),
				{Namespace: "kube-system", Name: "aws-node", Outcome: drain.Skipped},
			}},
		},
		pods:   []podRecord{seen("plain-a", plainApp, 4), seen("web-a", webApp, 4), seen("web-b", webApp, 8)},
		events: []string{"Draining", "Drained"},
	}
}

// Each check fails when what it is about is wrong.
func TestChecks_SomethingIsWrong_ThatCheckFails(t *testing.T) {
	for name, c := range map[string]struct {
		wrong func(*observed)
		fails []string
	}{
		"nothing": {func(*observed) {}, nil},
		"other instance": {func(o *observed) { o.report.InstanceID = "i-1" },
			[]string{"the report is about this instance, its group and its node"}},
		"status": {func(o *observed) { o.report.Status = termination.StatusForced }, []string{"the status is drained"}},
		"abandoned": {func(o *observed) { o.report.LifecycleResult = termination.Abandon },
			[]string{"the lifecycle action was completed with CONTINUE"}},
		"pod not in report": {func(o *observed) { o.report.Pods = o.report.Pods[1:] }, []string{"every test pod was evicted"}},
		"too few pods":      {func(o *observed) { o.pods = o.pods[1:] }, []string{"every test pod was evicted"}},
		"forced pod": {func(o *observed) { o.report.Pods[0].Outcome = drain.Forced },
			[]string{"every test pod was evicted", "no pod of the node was forced or remained"}},
		"another pod remained": {func(o *observed) { o.report.Pods[3].Outcome = drain.Remained }, []string{"no pod of the node was forced or remained"}},
		"gone before evicted": {func(o *observed) { o.report.Pods[0].GoneAt = o.report.Pods[0].EvictedAt.Add(-1) },
			[]string{"each pod's times are in order"}},
		"gone after the end": {func(o *observed) { o.report.Pods[0].GoneAt = o.report.FinishedAt.Add(1) }, []string{"each pod's times are in order"}},
		"no time":            {func(o *observed) { o.report.Pods[0].EvictedAt = time.Time{} }, []string{"each pod's times are in order"}},
		"PDB's pods at once": {func(o *observed) { o.fewest = 0 }, []string{"the PDB was respected"}},
		"not signaled":       {func(o *observed) { o.pods[1].Record = "" }, []string{"every test pod got SIGTERM and ended by itself"}},
		"killed":             {func(o *observed) { o.pods[1].ExitCode = 137 }, []string{"every test pod got SIGTERM and ended by itself"}},
		"no hook": {func(o *observed) { o.waited, o.released = false, time.Time{} },
			[]string{"the hook held the instance until its pods were gone"}},
		"pod still there": {func(o *observed) { o.present = []string{o.pods[2].Name} }, []string{"the hook held the instance until its pods were gone"}},
		"pod never gone":  {func(o *observed) { o.pods[2].Gone = time.Time{} }, []string{"the hook held the instance until its pods were gone"}},
		"released early": {func(o *observed) { o.released = o.report.FinishedAt.Add(-clockTolerance - 1) },
			[]string{"the hook held the instance until its pods were gone"}},
		"deadline": {func(o *observed) { o.report.Deadline = o.report.FinishedAt }, []string{"the drain was over before its deadline"}},
		"no event": {func(o *observed) { o.events = []string{"Draining"} }, []string{"the node has the events Draining and Drained"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := good()
			c.wrong(&o)
			var failed []string
			for _, found := range o.checks() {
				if found.problem != "" {
					failed = append(failed, found.name)
				}
			}
			require.Equal(t, c.fails, failed)
		})
	}
}
