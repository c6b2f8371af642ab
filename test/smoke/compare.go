package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// clockTolerance is how far this machine's clock and AWS's may differ. Only one check compares both.
const clockTolerance = 5 * time.Second

// observed is what happened, as the report says and as the cluster and Auto Scaling showed.
type observed struct {
	group, instance, node string
	terminated            time.Time // when the termination was requested
	waited                bool      // whether the instance was seen waiting on hooks
	released              time.Time // the first look after that
	present               []string  // the test pods that were on the node right after that look
	report                termination.Report
	pods                  []podRecord // the test pods of the node
	fewest                int         // how many pods of the PDB were ready at the worst moment
	events                []string    // the reasons of the node's events
}

// check is one thing that must be as it should.
type check struct {
	name    string
	problem string // empty: it is
}

// compare compares what happened with what should have.
func (s *smoke) compare(context.Context) (string, error) {
	s.seen.group, s.seen.instance, s.seen.node = s.Group, s.target.instance, s.target.node
	s.seen.pods, s.seen.fewest = s.pods.on(s.target.node), s.pods.fewestReady()
	s.checks = s.seen.checks()
	var failed []string
	for _, c := range s.checks {
		if c.problem != "" {
			failed = append(failed, c.name)
		}
		fmt.Fprintf(s.Out, "  %s\n", c)
	}
	if len(failed) > 0 {
		return "", fmt.Errorf("%d of %d checks failed: %s", len(failed), len(s.checks), strings.Join(failed, "; "))
	}
	return fmt.Sprintf("%d checks", len(s.checks)), nil
}

// String returns a line for people.
func (c check) String() string {
	if c.problem != "" {
		return "[FAILED] " + c.name + ": " + c.problem
	}
	return "[ok] " + c.name
}

func (o observed) checks() []check {
	return []check{
		{"the report is about this instance, its group and its node", o.checkIdentity()},
		{"the status is drained", differs(termination.StatusDrained, o.report.Status)},
		{"the lifecycle action was completed with CONTINUE", differs(termination.Continue, o.report.LifecycleResult)},
		{"every test pod was evicted", o.checkTestPods()},
		{"no pod of the node was forced or remained", o.checkOutcomes()},
		{"each pod's times are in order", o.checkTimes()},
		{"the PDB was respected", o.checkPDB()},
		{"every test pod got SIGTERM and ended by itself", o.checkSignals()},
		{"the hook held the instance until its pods were gone", o.checkHook()},
		{"the drain was over before its deadline", o.checkDeadline()},
		{"the node has the events " + strings.Join(nodeEvents, " and "), o.checkEvents()},
	}
}

func differs[T comparable](want, got T) string {
	if want == got {
		return ""
	}
	return fmt.Sprintf("it is %q", fmt.Sprint(got))
}

func (o observed) checkIdentity() string {
	return differs([3]string{o.group, o.instance, o.node}, [3]string{o.report.Group, o.report.InstanceID, o.report.Node})
}

// checkTestPods looks for each test pod in the report.
func (o observed) checkTestPods() string {
	if len(o.pods) < webReplicas+plainReplicas {
		return fmt.Sprintf("only %d test pods were on the node", len(o.pods))
	}
	return problems(o.pods, func(p podRecord) string {
		at := slices.IndexFunc(o.report.Pods, func(r drain.PodReport) bool { return r.Namespace == namespace && r.Name == p.Name })
		if at < 0 {
			return p.Name + " is not in the report"
		}
		if outcome := o.report.Pods[at].Outcome; outcome != drain.Evicted {
			return fmt.Sprintf("%s is %q", p.Name, outcome)
		}
		return ""
	})
}

func (o observed) checkOutcomes() string {
	return problems(o.report.Pods, func(p drain.PodReport) string {
		if p.Outcome == drain.Evicted || p.Outcome == drain.Skipped {
			return ""
		}
		return fmt.Sprintf("%s/%s is %q: %s", p.Namespace, p.Name, p.Outcome, p.Reason)
	})
}

// checkTimes compares the times of the report with each other: one clock wrote them.
func (o observed) checkTimes() string {
	return problems(o.report.Pods, func(p drain.PodReport) string {
		times := []time.Time{o.report.StartedAt, p.EvictedAt, p.GoneAt, o.report.FinishedAt}
		if p.Outcome != drain.Evicted || slices.IsSortedFunc(times, time.Time.Compare) && !p.EvictedAt.IsZero() {
			return ""
		}
		return fmt.Sprintf("%s/%s was evicted at %s and gone at %s, in a drain from %s to %s", p.Namespace, p.Name,
			clock(p.EvictedAt), clock(p.GoneAt), clock(o.report.StartedAt), clock(o.report.FinishedAt))
	})
}

// checkPDB compares with what the PDB allows: one pod less than all. An evicted pod may still be stopping when the next one is evicted.
func (o observed) checkPDB() string {
	if o.fewest >= webReplicas-1 {
		return ""
	}
	return fmt.Sprintf("%d were ready at the worst moment", o.fewest)
}

func (o observed) checkSignals() string {
	return problems(o.pods, func(p podRecord) string {
		if p.wasSignaled() {
			return ""
		}
		return fmt.Sprintf("%s recorded %q, exit code %d", p.Name, p.Record, p.ExitCode)
	})
}

// checkHook compares when the pods were gone with when Auto Scaling went on, by this machine's clock, and the completion as well.
func (o observed) checkHook() string {
	switch {
	case !o.waited:
		return "the instance was never seen waiting"
	case o.released.IsZero():
		return "the instance was never released"
	case o.report.FinishedAt.After(o.released.Add(clockTolerance)):
		return fmt.Sprintf("the drain ended at %s, and the instance was released by %s", clock(o.report.FinishedAt), clock(o.released))
	}
	return problems(o.pods, func(p podRecord) string {
		if p.Gone.IsZero() || slices.Contains(o.present, p.Name) {
			return fmt.Sprintf("%s was still there when the instance was released at %s", p.Name, clock(o.released))
		}
		return ""
	})
}

func (o observed) checkDeadline() string {
	if o.report.FinishedAt.Before(o.report.Deadline) {
		return ""
	}
	return fmt.Sprintf("it ended at %s, with the deadline %s", clock(o.report.FinishedAt), clock(o.report.Deadline))
}

func (o observed) checkEvents() string {
	return problems(nodeEvents, func(reason string) string {
		if slices.Contains(o.events, reason) {
			return ""
		}
		return reason + " is missing"
	})
}

// problems joins what is wrong with each of them.
func problems[T any](all []T, problem func(T) string) string {
	var found []string
	for _, one := range all {
		if p := problem(one); p != "" {
			found = append(found, p)
		}
	}
	return strings.Join(found, ", ")
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return t.UTC().Format("15:04:05.000")
}
