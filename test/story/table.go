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
	value func(*tale) string
}{
	{"workers", func(t *tale) string { return strconv.Itoa(len(t.books.Workers)) }},
	{"node's life after Auto Scaling's decision", func(t *tale) string { return seconds(t.died.Sub(t.terminated)) }},
	{"workers that hang, a minute after its death", func(t *tale) string { return strconv.Itoa(len(t.books.Hanging)) }},
	{"  hanging for", (*tale).hangingFor},
	{"  until their kernel first asks for the pooler", (*tale).kernelAsks},
	{"  probes of workers that failed meanwhile", (*tale).failedProbes},
	{"transactions committed", func(t *tale) string { return strconv.Itoa(t.books.Balance.Committed) }},
	{"  cut in flight", func(t *tale) string { return strconv.Itoa(t.books.Balance.Aborted + t.books.Balance.InFlight) }},
	{"  cut at COMMIT, outcome unknown to the worker", func(t *tale) string { return strconv.Itoa(t.books.Balance.Ambiguous) }},
	{"  lost, or there twice", func(t *tale) string { return strconv.Itoa(t.books.Amiss()) }},
	{"connections closed between transactions", func(t *tale) string { return strconv.Itoa(t.books.Closed()) }},
	{"connects refused", func(t *tale) string { return strconv.Itoa(t.books.Refused()) }},
	{"longest stall of a worker that does not hang", func(t *tale) string { return seconds(t.books.LongestStall()) }},
	{"drain", (*tale).drainOutcome},
}

func table(w io.Writer, tales []*tale) {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "\n\t")
	for _, t := range tales {
		fmt.Fprintf(out, "%s, %s quiesce\t", t.version, with(t.drained))
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

func (t *tale) hangingFor() string {
	if len(t.books.Hanging) == 0 {
		return "-"
	}
	return seconds(t.books.At.Sub(t.died)) + " so far"
}

func (t *tale) kernelAsks() string {
	if t.patience == 0 {
		return "-"
	}
	return t.patience.String()
}

func (t *tale) failedProbes() string {
	if t.green {
		return "0"
	}
	return "some"
}

// drainOutcome is what the function reported.
func (t *tale) drainOutcome() string {
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

// half is the tale as the picture tells it.
func (t *tale) half() picture.Half {
	return picture.Half{
		Title:    fmt.Sprintf("pgbouncer %s, %s quiesce", t.version, with(t.drained)),
		Subtitle: fmt.Sprintf("%d of %d workers hang at the end; %d transactions cut", len(t.books.Hanging), len(t.books.Workers), t.books.Cut()),
		Workers:  len(t.books.Workers), Samples: t.samples, Marks: t.marks,
	}
}
