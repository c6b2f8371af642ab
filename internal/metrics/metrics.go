// Package metrics is the adapter for CloudWatch metrics: their names, and the log lines that CloudWatch extracts them from
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
// They need no API call and no permission.
package metrics

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// Log writes metrics as lines of the function's log.
type Log struct {
	out     io.Writer
	cluster string
}

var _ termination.Metrics = (*Log)(nil)

// New returns a Log for a cluster. It writes each line with one call.
func New(out io.Writer, cluster string) *Log { return &Log{out, cluster} }

// measure is one value of one metric.
type measure struct {
	name, unit string
	value      float64
}

// The units (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html).
func count(name string, n int) measure             { return measure{name, "Count", float64(n)} }
func seconds(name string, d time.Duration) measure { return measure{name, "Seconds", d.Seconds()} }

// Invocation implements termination.Metrics.
func (l *Log) Invocation(i termination.Invocation) {
	l.write(nil, invocationMeasures(i)...)
	if i.Ended {
		l.write(map[string]string{Status: string(i.Report.Status)}, count(Drains, 1))
	}
	escorts := countEscorts(i.Report.Pods)
	for _, strategy := range slices.Sorted(maps.Keys(escorts)) {
		l.write(map[string]string{Strategy: strategy}, count(Escorts, escorts[strategy]))
	}
}

// Sweep implements termination.Metrics.
func (l *Log) Sweep(r termination.SweepReport) {
	all := []measure{
		count(Sweeps, 1), count(InstancesWaiting, r.Waiting), count(InstancesDraining, r.Draining), count(EventsResent, r.EventsResent),
		count(ClusterUnreachable, oneIf(!r.ClusterReachable)), count(GroupsWithoutHook, r.GroupsWithoutHook), count(HooksPut, r.HooksPut),
		count(InstancesRetained, r.RetainedCount()), {LongestWaitSeconds, "Seconds", r.LongestWaitSeconds},
	}
	if age, known := r.OldestRetained(); known {
		all = append(all, seconds(OldestRetainedSeconds, age))
	}
	l.write(nil, all...)
}

// Check implements termination.Metrics.
func (l *Log) Check(r termination.CheckReport) {
	l.write(nil, count(Checks, 1), count(ChecksFailed, oneIf(len(r.Failed()) > 0)))
}

// ScheduledChanges implements termination.Metrics.
func (l *Log) ScheduledChanges(c termination.ScheduledCounts) {
	l.write(nil, count(ScheduledChanges, c.Found), count(InstancesReplaced, c.Replaced), count(InstancesAtRisk, c.AtRisk))
}

// UnhookedStop implements termination.Metrics.
func (l *Log) UnhookedStop() { l.write(nil, count(UnhookedStops, 1)) }

// MalformedEvent implements termination.Metrics.
func (l *Log) MalformedEvent() { l.write(nil, count(MalformedEvents, 1)) }

func invocationMeasures(i termination.Invocation) []measure {
	pods := i.Report.Pods
	all := []measure{
		count(PodsEvicted, sum(pods, func(p drain.PodReport) int { return oneIf(p.Outcome == drain.Evicted) })),
		count(PodsForced, len(i.Report.ForcedPods())),
		seconds(PDBBlockedSeconds, pdbBlocked(i.Report)),
		count(TransactionsAborted, sum(pods, abortedTransactions)),
		count(HeartbeatsFailed, i.HeartbeatsFailed),
		count(InvocationsFailed, oneIf(!i.Ended && !i.HandedOff())),
		count(Handoffs, oneIf(i.HandedOff())),
		count(HooksExpired, oneIf(i.HookExpired)),
		count(EventsRejected, oneIf(i.Report.Status == termination.StatusRejected)),
		count(NodesNotFound, oneIf(i.Ended && i.WasInService && i.Report.Status == termination.StatusNodeNotFound)),
		count(PodsRefused, sum(pods, func(p drain.PodReport) int { return oneIf(p.Outcome == drain.StillRefused) })),
	}
	if i.First && !i.Began.IsZero() && i.Report.Status != termination.StatusRejected {
		// Events have whole seconds, so that a new one may be from the future. A rejected one may have any time. When an event began that was lost, and
		// sent again, is not known.
		all = append(all, seconds(EventAgeSeconds, max(0, i.Report.StartedAt.Sub(i.Began))))
	}
	if i.Ended {
		all = append(all, count(PodsRemaining, len(i.Report.RemainedPods())))
	}
	if i.Ended && wasDrain(i.Report.Status) {
		all = append(all, seconds(DrainSeconds, i.Report.FinishedAt.Sub(i.Began)))
	}
	return all
}

// wasDrain reports whether the invocation was part of a drain. A plan and a rejected event take no time worth measuring.
func wasDrain(s termination.Status) bool {
	return s != termination.StatusPlanned && s != termination.StatusRejected
}

// countEscorts returns the number of escorts that ended, by strategy: those of pods that were signaled or are gone, and of
// pods that stay.
func countEscorts(pods []drain.PodReport) map[string]int {
	ended := map[string]int{}
	for _, p := range pods {
		signaled := !p.EvictedAt.IsZero() || !p.ForcedAt.IsZero() || !p.GoneAt.IsZero()
		if p.Escort != nil && (signaled || p.Verdict == drain.Skip) {
			ended[cmp.Or(p.Escort.Strategy, "none")]++
		}
	}
	return ended
}

func abortedTransactions(p drain.PodReport) int {
	if p.Escort == nil {
		return 0
	}
	return p.Escort.AbortedTransactions
}

// pdbBlocked returns the time in which PDBs blocked at least one pod. A pod is blocked from the first refusal of its eviction
// until it is signaled.
func pdbBlocked(r termination.Report) (total time.Duration) {
	blocked := slices.DeleteFunc(slices.Clone(r.Pods), func(p drain.PodReport) bool { return p.BlockedAt.IsZero() })
	slices.SortFunc(blocked, func(a, b drain.PodReport) int { return a.BlockedAt.Compare(b.BlockedAt) })
	var counted time.Time
	for _, p := range blocked {
		from, until := drain.Later(p.BlockedAt, counted), r.FinishedAt
		for _, end := range []time.Time{p.EvictedAt, p.ForcedAt, p.GoneAt} {
			if !end.IsZero() && end.Before(until) {
				until = end
			}
		}
		if from.Before(until) {
			total, counted = total+until.Sub(from), until
		}
	}
	return total
}

func sum(pods []drain.PodReport, of func(drain.PodReport) int) (total int) {
	for _, p := range pods {
		total += of(p)
	}
	return total
}

func oneIf(condition bool) int {
	if condition {
		return 1
	}
	return 0
}

// metadata tells CloudWatch which metrics a line has.
type metadata struct {
	Timestamp         int64 // in milliseconds since 1970
	CloudWatchMetrics []directive
}

type directive struct {
	Namespace  string
	Dimensions [][]string
	Metrics    []definition
}

type definition struct{ Name, Unit string }

// write writes a line with measures. Their dimensions are the cluster and the further ones. It ignores errors: a function that
// cannot write its log cannot report anything.
func (l *Log) write(further map[string]string, measures ...measure) {
	wanted := directive{Namespace: Namespace, Dimensions: [][]string{append([]string{Cluster}, slices.Sorted(maps.Keys(further))...)}}
	line := map[string]any{Cluster: l.cluster}
	for name, value := range further {
		line[name] = value
	}
	for _, m := range measures {
		line[m.name] = m.value
		wanted.Metrics = append(wanted.Metrics, definition{m.name, m.unit})
	}
	line["_aws"] = metadata{time.Now().UnixMilli(), []directive{wanted}}
	text, _ := json.Marshal(line) // cannot fail: texts and finite numbers only
	_, _ = l.out.Write(append(text, '\n'))
}
