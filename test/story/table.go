package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"quiesce/test/story/picture"
)

// rows are what is counted, the same of each half.
var rows = []struct {
	name  string
	value func(*run) string
}{
	{"workers", func(t *run) string { return strconv.Itoa(len(t.results.Workers)) }},
	{"node's life after Auto Scaling's decision", func(t *run) string { return seconds(t.died.Sub(t.terminated)) }},
	{"workers that hang, a minute after its death", func(t *run) string { return strconv.Itoa(len(t.results.Hanging)) }},
	{"  hanging for", (*run).hangingFor},
	{"  until their kernel first asks for the pooler", (*run).keepaliveText},
	{"  probes of workers that failed meanwhile", (*run).failedProbes},
	{"transactions committed", func(t *run) string { return strconv.Itoa(t.results.Comparison.Committed) }},
	{"  cut in flight", func(t *run) string { return strconv.Itoa(t.results.Comparison.Aborted + t.results.Comparison.InFlight) }},
	{"  cut at COMMIT, outcome unknown to the worker", func(t *run) string { return strconv.Itoa(t.results.Comparison.Ambiguous) }},
	{"  lost, or there twice", func(t *run) string { return strconv.Itoa(t.results.Inconsistent()) }},
	{"connections closed between transactions", func(t *run) string { return strconv.Itoa(t.results.Closed()) }},
	{"connects refused", func(t *run) string { return strconv.Itoa(t.results.Refused()) }},
	{"longest stall of a worker that does not hang", func(t *run) string { return seconds(t.results.LongestStall()) }},
	{"drain", (*run).drainOutcome},
}

func table(w io.Writer, tales []*run) {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "\n\t")
	for _, t := range tales {
		fmt.Fprintf(out, "%s, %s quiesce\t", t.version, withOrWithout(t.drained))
	}
	for _, r := range rows {
		fmt.Fprintf(out, "\n%-48s\t", r.name)
		for _, t := range tales {
			fmt.Fprintf(out, "%s\t", r.value(t))
		}
	}
	fmt.Fprint(out, "\n\n")
	out.Flush()
}

func (t *run) hangingFor() string {
	if len(t.results.Hanging) == 0 {
		return "-"
	}
	return seconds(t.results.At.Sub(t.died)) + " so far"
}

func (t *run) keepaliveText() string {
	if t.keepalive == 0 {
		return "-"
	}
	return t.keepalive.String()
}

func (t *run) failedProbes() string {
	if t.probesPass {
		return "0"
	}
	return "some"
}

// drainOutcome is what the function reported.
func (t *run) drainOutcome() string {
	if !t.drained {
		return "none"
	}
	for _, p := range t.report.Pods {
		if p.Escort != nil {
			return fmt.Sprintf("%s, %s", t.report.Status, p.Escort.Strategy)
		}
	}
	return string(t.report.Status)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// panel is the tale as the picture tells it.
func (t *run) panel() picture.Panel {
	return picture.Panel{
		Title:    fmt.Sprintf("pgbouncer %s, %s quiesce", t.version, withOrWithout(t.drained)),
		Subtitle: fmt.Sprintf("%d of %d workers hang at the end; %d transactions cut", len(t.results.Hanging), len(t.results.Workers), t.results.Interrupted()),
		Workers:  len(t.results.Workers), Samples: t.samples, Marks: t.marks,
	}
}
