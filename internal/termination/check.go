package termination

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quiesce/internal/drain"
)

const (
	// checkTimeout bounds a check. Each step has a timeout of its own, so that one silent service does not cost the others; together
	// they may take this long.
	checkTimeout = 3 * time.Minute
	// stepTimeout bounds one step. A request may take 12 s with its retries, and then its error says more than this timeout's. Longer
	// would let a silent service use up the check.
	stepTimeout = 15 * time.Second
	// hooksTimeout bounds the step that asks for hooks, group by group.
	hooksTimeout = 30 * time.Second
)

// CheckReport is the answer to a check: whether each step of a drain's path works, short of an eviction.
type CheckReport struct {
	Status     Status      `json:"status"` // checked; failed: at least one step failed
	Steps      []CheckStep `json:"steps"`
	StartedAt  time.Time   `json:"startedAt"`
	FinishedAt time.Time   `json:"finishedAt"`
	Version    string      `json:"version,omitempty"` // of the function that checked
	Commit     string      `json:"commit,omitempty"`  // that it was built from
}

// CheckStep is one step of a check.
type CheckStep struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`         // what was seen, or the error
	Next    string  `json:"next,omitempty"` // of a failed step: what a person does
	Seconds float64 `json:"seconds"`
}

// Failed returns the names of the steps that failed.
func (r CheckReport) Failed() (names []string) {
	for _, s := range r.Steps {
		if !s.OK {
			names = append(names, s.Name)
		}
	}
	return names
}

// check goes the path of a drain up to its first eviction, and changes nothing. Every step is tried, whatever became of the others.
type check struct {
	*Handler
	report  CheckReport
	groups  []Group
	cluster Kubernetes    // nil: unreachable
	node    *drain.Node   // of an instance of ours; nil: none was found
	noNode  string        // why that is no failure
	watched drain.Cluster // the pods of that node; nil: they were not listed
}

// needs is the error of a step that cannot be tried, because another one failed. Its cure is that of the other.
type needs struct{ step string }

func (n needs) Error() string { return "not tried: it needs the step " + n.step }

// misconfigured is the error of a step that no retry mends. It says what a person does.
type misconfigured struct{ problem, next string }

func (m *misconfigured) Error() string { return m.problem }

// check answers with its steps even if some of them failed. Lambda would pass on only the text of an error.
func (h *Handler) check(ctx context.Context) CheckReport {
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, checkTimeout)
	defer stop()
	c := &check{Handler: h}
	c.report = CheckReport{Status: StatusChecked, Steps: []CheckStep{}, StartedAt: time.Now(), Version: h.Version, Commit: h.Commit}
	watching, end := context.WithCancel(ctx) // outlives the step that lists the pods
	defer end()
	c.try(ctx, "groups", stepTimeout, c.findGroups)
	c.try(ctx, "hooks", hooksTimeout, c.findHooks)
	c.try(ctx, "queue", stepTimeout, c.countMessages)
	c.try(ctx, "cluster", stepTimeout, c.connect)
	c.try(ctx, "leases", stepTimeout, c.readLeases)
	c.try(ctx, "nodes", stepTimeout, c.findNode)
	c.try(ctx, "pods", stepTimeout, func(step context.Context) (string, error) { return c.listPods(watching, step) })
	c.try(ctx, "eviction", stepTimeout, c.tryEviction)
	c.finish()
	return c.report
}

func (c *check) finish() {
	c.report.FinishedAt = time.Now()
	if failed := c.report.Failed(); len(failed) > 0 {
		c.report.Status = StatusFailed
		c.Log.Error("check failed", "steps", strings.Join(failed, ", "), "report", c.report)
	} else {
		c.Log.Info("check complete", "report", c.report)
	}
	if c.Metrics != nil {
		c.Metrics.Check(c.report)
	}
}

// try runs one step, and adds it to the report.
func (c *check) try(ctx context.Context, name string, timeout time.Duration, run func(context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	detail, err := runSafely(ctx, run)
	step := CheckStep{Name: name, OK: err == nil, Detail: drain.Short(detail), Seconds: time.Since(began).Round(time.Millisecond).Seconds()}
	if err != nil {
		step.Detail, step.Next = drain.Short(err.Error()), c.nextFor(err)
	}
	c.report.Steps = append(c.report.Steps, step)
}

// runSafely turns a panic into an error, so that the other steps are tried.
func runSafely(ctx context.Context, run func(context.Context) (string, error)) (detail string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return run(ctx)
}

// nextFor returns what a person does about the error of a step.
func (c *check) nextFor(err error) string {
	if wrong, is := errors.AsType[*misconfigured](err); is {
		return wrong.next
	}
	if other, is := errors.AsType[needs](err); is {
		return "see the step " + other.step
	}
	if c.NextStep != nil {
		if next := c.NextStep(err); next != "" {
			return next
		}
	}
	return "see check-failed in infra/RUNBOOK.md"
}

// maxNamed bounds the names in a finding. A person asks for the rest.
const maxNamed = 5

// named joins names, at most a few of them.
func named(names []string) string { return drain.Names(slices.Sorted(slices.Values(names)), maxNamed) }
