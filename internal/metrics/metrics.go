// Package metrics is the edge to CloudWatch metrics: their names, and the lines of the log from which CloudWatch takes them by
// itself (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
// Nothing is sent for them, and nothing has to be allowed.
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

// New makes one for a cluster. Each line is one write.
func New(out io.Writer, cluster string) *Log { return &Log{out, cluster} }

// measure is one value of a metric.
type measure struct {
	name, unit string
	value      float64
}

// The units (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html).
func count(name string, n int) measure             { return measure{name, "Count", float64(n)} }
func seconds(name string, d time.Duration) measure { return measure{name, "Seconds", d.Seconds()} }

// Invocation implements termination.Metrics.
func (l *Log) Invocation(s termination.Invocation) {
	l.write(nil, ofSlice(s)...)
	if s.Ended {
		l.write(map[string]string{Status: string(s.Report.Status)}, count(Drains, 1))
	}
	escorts := escortsOf(s.Report.Pods)
	for _, strategy := range slices.Sorted(maps.Keys(escorts)) {
		l.write(map[string]string{Strategy: strategy}, count(Escorts, escorts[strategy]))
	}
}

// Sweep implements termination.Metrics.
func (l *Log) Sweep(r termination.SweepReport) {
	l.write(nil, count(Sweeps, 1), count(InstancesWaiting, r.Waiting), count(InstancesDraining, r.Draining), count(EventsResent, r.EventsResent))
}

// MalformedEvent implements termination.Metrics.
func (l *Log) MalformedEvent() { l.write(nil, count(MalformedEvents, 1)) }

func ofSlice(s termination.Invocation) []measure {
	pods := s.Report.Pods
	all := []measure{
		count(PodsEvicted, number(pods, func(p drain.PodReport) int { return truth(p.Outcome == drain.Evicted) })),
		count(PodsForced, len(s.Report.ForcedPods())),
		seconds(PDBBlockedSeconds, blocked(s.Report)),
		count(TransactionsAborted, number(pods, lost)),
		count(HeartbeatsFailed, s.HeartbeatsFailed),
		count(InvocationsFailed, truth(!s.Ended && !s.HandedOff())),
		count(Handoffs, truth(s.HandedOff())),
		count(HooksExpired, truth(s.HookExpired)),
	}
	if s.First {
		all = append(all, seconds(EventAgeSeconds, max(0, s.Report.StartedAt.Sub(s.Began)))) // events have whole seconds
	}
	if s.Ended {
		all = append(all, count(PodsRemaining, len(s.Report.RemainedPods())))
	}
	if s.Ended && wasDrain(s.Report.Status) {
		all = append(all, seconds(DrainSeconds, s.Report.FinishedAt.Sub(s.Began)))
	}
	return all
}

// wasDrain tells whether anything was drained, or was to be: neither a plan takes time, nor an event that is not believed.
func wasDrain(s termination.Status) bool {
	return s != termination.StatusPlanned && s != termination.StatusRejected
}

// escortsOf are the escorts that ended, by strategy: of pods that were let go, or stopped where they are.
func escortsOf(pods []drain.PodReport) map[string]int {
	ended := map[string]int{}
	for _, p := range pods {
		left := !p.EvictedAt.IsZero() || !p.ForcedAt.IsZero() || !p.GoneAt.IsZero()
		if p.Escort != nil && (left || p.Verdict == drain.Skip) {
			ended[cmp.Or(p.Escort.Strategy, "none")]++
		}
	}
	return ended
}

func lost(p drain.PodReport) int {
	if p.Escort == nil {
		return 0
	}
	return p.Escort.AbortedTransactions
}

// blocked is for how long budgets held back one pod at least: each from when it was first refused until it was told to stop.
func blocked(r termination.Report) (sum time.Duration) {
	held := slices.DeleteFunc(slices.Clone(r.Pods), func(p drain.PodReport) bool { return p.BlockedAt.IsZero() })
	slices.SortFunc(held, func(a, b drain.PodReport) int { return a.BlockedAt.Compare(b.BlockedAt) })
	var counted time.Time
	for _, p := range held {
		from, until := later(p.BlockedAt, counted), r.FinishedAt
		for _, end := range []time.Time{p.EvictedAt, p.ForcedAt, p.GoneAt} {
			if !end.IsZero() && end.Before(until) {
				until = end
			}
		}
		if from.Before(until) {
			sum, counted = sum+until.Sub(from), until
		}
	}
	return sum
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func number(pods []drain.PodReport, of func(drain.PodReport) int) (sum int) {
	for _, p := range pods {
		sum += of(p)
	}
	return sum
}

func truth(is bool) int {
	if is {
		return 1
	}
	return 0
}

// metadata tells CloudWatch what to take out of a line.
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

// write writes a line with these measures, of the cluster and of these further dimensions. A function that cannot write its log has
// nobody to tell.
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
	text, _ := json.Marshal(line) // of texts and finite numbers: it cannot fail
	_, _ = l.out.Write(append(text, '\n'))
}
