package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"quiesce/test/story/picture"
)

// row is a line of a table.
type row struct {
	name  string
	value func(*run) string
}

// rows are the lines of the table of pgbouncers.
var rows = []row{
	{"workers", func(r *run) string { return strconv.Itoa(len(r.results.Workers)) }},
	{"time from termination to node loss", func(r *run) string { return seconds(r.died.Sub(r.terminated)) }},
	{"workers that hang one minute later", func(r *run) string { return strconv.Itoa(len(r.results.Hanging)) }},
	{"  hanging for", (*run).hangingFor},
	{"  until TCP keepalive detects the dead peer", (*run).keepaliveText},
	{"  failed probes of workers", (*run).failedProbes},
	{"transactions committed", func(r *run) string { return strconv.Itoa(r.results.Comparison.Committed) }},
	{"  aborted in flight", func(r *run) string { return strconv.Itoa(r.results.Comparison.Aborted + r.results.Comparison.InFlight) }},
	{"  aborted at COMMIT, result unknown to the worker", func(r *run) string { return strconv.Itoa(r.results.Comparison.Ambiguous) }},
	{"  lost or duplicated", func(r *run) string { return strconv.Itoa(r.results.Inconsistent()) }},
	{"connections closed between transactions", func(r *run) string { return strconv.Itoa(r.results.Closed()) }},
	{"refused connects", func(r *run) string { return strconv.Itoa(r.results.Refused()) }},
	{"longest stall of a worker that does not hang", func(r *run) string { return seconds(r.results.LongestStall()) }},
	{"drain", (*run).drainOutcome},
}

// primaryRows are the lines of the table of primaries.
var primaryRows = []row{
	{"workers", func(r *run) string { return strconv.Itoa(len(r.results.Workers)) }},
	{"time from termination to node loss", func(r *run) string { return seconds(r.died.Sub(r.terminated)) }},
	{"workers that hang one minute later", func(r *run) string { return strconv.Itoa(len(r.results.Hanging)) }},
	{"transactions committed", func(r *run) string { return strconv.Itoa(r.results.Comparison.Committed) }},
	{"  aborted in flight", func(r *run) string { return strconv.Itoa(r.results.Comparison.Aborted + r.results.Comparison.InFlight) }},
	{"  aborted at COMMIT, result unknown to the worker", func(r *run) string { return strconv.Itoa(r.results.Comparison.Ambiguous) }},
	{"  lost or duplicated", func(r *run) string { return strconv.Itoa(r.results.Inconsistent()) }},
	{"transactions refused at BEGIN", func(r *run) string { return strconv.Itoa(r.results.Closed()) }},
	{"refused connects", func(r *run) string { return strconv.Itoa(r.results.Refused()) }},
	{"longest time without any commit", (*run).longestGap},
	{"clients held", (*run).heldText},
	{"drain", (*run).drainOutcome},
}

func table(w io.Writer, rows []row, runs []*run) {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "\n\t")
	for _, run := range runs {
		fmt.Fprintf(out, "%s, %s quiesce\t", run.version, withOrWithout(run.drained))
	}
	for _, row := range rows {
		fmt.Fprintf(out, "\n%-48s\t", row.name)
		for _, run := range runs {
			fmt.Fprintf(out, "%s\t", row.value(run))
		}
	}
	fmt.Fprint(out, "\n\n")
	out.Flush()
}

func (r *run) hangingFor() string {
	if len(r.results.Hanging) == 0 {
		return "-"
	}
	return seconds(r.results.At.Sub(r.died)) + " so far"
}

func (r *run) keepaliveText() string {
	if r.keepalive == 0 {
		return "-"
	}
	return r.keepalive.String()
}

func (r *run) failedProbes() string {
	if r.probesPass {
		return "0"
	}
	return "some"
}

// drainOutcome returns the reported result of the drain.
func (r *run) drainOutcome() string {
	if !r.drained {
		return "none"
	}
	for _, p := range r.report.Pods {
		if p.Escort != nil {
			return fmt.Sprintf("%s, %s", r.report.Status, p.Escort.Strategy)
		}
	}
	return string(r.report.Status)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// panel returns the run as a panel of the picture.
func (r *run) panel() picture.Panel {
	return picture.Panel{
		Title:    fmt.Sprintf("%s %s, %s quiesce", r.what, r.version, withOrWithout(r.drained)),
		Subtitle: fmt.Sprintf("%d of %d workers hang at the end; %d transactions aborted", len(r.results.Hanging), len(r.results.Workers), r.results.Interrupted()),
		Workers:  len(r.results.Workers), Samples: r.samples, Marks: r.marks,
	}
}
