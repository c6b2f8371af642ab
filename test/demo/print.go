package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"quiesce/internal/termination"
)

// logPrinter prints the function's log, one JSON object per line, in a form that people can follow.
type logPrinter struct {
	out io.Writer

	mu   sync.Mutex
	rest []byte // an incomplete line
}

// Write implements io.Writer.
func (n *logPrinter) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rest = append(n.rest, b...)
	for {
		line, rest, ended := bytes.Cut(n.rest, []byte("\n"))
		if !ended {
			return len(b), nil
		}
		n.rest = rest
		n.printLine(line)
	}
}

func (n *logPrinter) printLine(line []byte) {
	var entry struct {
		Time                            time.Time
		Msg, Pod, Reason, Phase, Result string
	}
	if json.Unmarshal(line, &entry) != nil {
		return
	}
	isMetric := entry.Msg == "" // metrics are log lines without a message
	if isMetric || entry.Msg == "event handled" {
		return
	}
	fmt.Fprintf(n.out, "  %s  %-26s %s%s%s  %s\n", entry.Time.Format("15:04:05.000"), entry.Msg, entry.Pod, entry.Phase, entry.Result, entry.Reason)
}

// table prints a report. Times are seconds since the drain started.
func table(out io.Writer, r termination.Report) {
	fmt.Fprintf(out, "\n%s: node %s of %s, %s after %.2f s\n\n", r.Status, r.Node, r.Group, r.LifecycleResult, r.FinishedAt.Sub(r.StartedAt).Seconds())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PHASE\tPOD\tVERDICT\tOUTCOME\tEVICTED\tGONE\tBLOCKED BY")
	since := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return fmt.Sprintf("%.2f s", t.Sub(r.StartedAt).Seconds())
	}
	for _, p := range r.Pods {
		fmt.Fprintf(w, "%s\t%s/%s\t%s\t%s\t%s\t%s\t%v\n", p.Phase, p.Namespace, p.Name, p.Verdict, p.Outcome, since(p.EvictedAt), since(p.GoneAt), p.BlockedBy)
	}
	w.Flush()
	fmt.Fprintln(out)
}
