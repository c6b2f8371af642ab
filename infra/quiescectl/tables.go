package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/termination"
)

// line returns a text that others wrote as one line of a terminal, without what controls it.
func line(text string) string { return strings.Join(strings.Fields(escort.Printable(text)), " ") }

// columns writes rows of cells with kubectl's spacing. No line ends with spaces.
func columns(out io.Writer, rows [][]string) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for n := range row {
			row[n] = line(row[n])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // to memory
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
}

// orNone is a cell that would be empty.
func orNone(text string) string { return cmp.Or(text, "<none>") }

func clock(t time.Time) string {
	if t.IsZero() {
		return "<none>"
	}
	return t.UTC().Format(time.RFC3339)
}

func seconds(s float64) string { return (time.Duration(s*1000) * time.Millisecond).String() }

// showReport shows a plan, or what became of a drain.
func showReport(out io.Writer, r termination.Report) {
	columns(out, [][]string{
		{"NODE", "INSTANCE", "GROUP", "STATUS", "DEADLINE"},
		{orNone(r.Node), orNone(r.InstanceID), orNone(r.Group), string(r.Status), clock(r.Deadline)},
	})
	if r.Reason != "" {
		fmt.Fprintln(out, "\n"+line(r.Reason))
	}
	if len(r.Pods) > 0 {
		fmt.Fprintln(out)
		columns(out, podRows(r))
	}
	for _, p := range r.Pods {
		for _, warning := range p.Warnings {
			fmt.Fprintf(out, "\n%s/%s: %s\n", p.Namespace, p.Name, line(warning))
		}
	}
	if r.Plan != nil && len(r.Plan.PDBs) > 0 {
		fmt.Fprintln(out)
		columns(out, pdbRows(r.Plan.PDBs))
	}
	if r.Omitted != "" {
		fmt.Fprintln(out, "\nleft out: "+line(r.Omitted))
	}
}

func podRows(r termination.Report) [][]string {
	if r.Status == termination.StatusPlanned {
		rows := [][]string{{"PHASE", "POD", "VERDICT", "WHY"}}
		for _, p := range r.Pods {
			rows = append(rows, []string{orNone(p.Phase), p.Namespace + "/" + p.Name, string(p.Verdict), p.Reason})
		}
		return rows
	}
	rows := [][]string{{"PHASE", "POD", "OUTCOME", "GONE AFTER", "ESCORT", "WHY"}}
	for _, p := range r.Pods {
		gone := "<none>"
		if !p.GoneAt.IsZero() && !r.StartedAt.IsZero() {
			gone = p.GoneAt.Sub(r.StartedAt).Round(time.Second).String()
		}
		rows = append(rows, []string{orNone(p.Phase), p.Namespace + "/" + p.Name, string(p.Outcome), gone, escortCell(p.Escort), why(p)})
	}
	return rows
}

func escortCell(e *drain.EscortResult) string {
	if e == nil {
		return "<none>"
	}
	text := strings.TrimSpace(e.Kind + " " + e.Strategy)
	if e.HeldBackSeconds > 0 {
		text += ", clients held " + seconds(e.HeldBackSeconds)
	}
	if e.AbortedTransactions > 0 {
		text += fmt.Sprintf(", %d aborted", e.AbortedTransactions)
	}
	return text
}

func why(p drain.PodReport) string {
	if len(p.BlockedBy) == 0 {
		return p.Reason
	}
	return strings.TrimPrefix(p.Reason+"; was blocked by PDB "+strings.Join(p.BlockedBy, ", "), "; ")
}

func pdbRows(all []drain.PDB) [][]string {
	rows := [][]string{{"PDB", "ALLOWED", "HEALTHY", "WANTED", "PODS HERE", "NEVER"}}
	for _, p := range all {
		rows = append(rows, []string{
			p.Name, fmt.Sprint(p.DisruptionsAllowed), fmt.Sprintf("%d/%d", p.CurrentHealthy, p.ExpectedPods), fmt.Sprint(p.DesiredHealthy),
			fmt.Sprint(len(p.Pods)), orNone(p.NeverReason),
		})
	}
	return rows
}

func showSweep(out io.Writer, r termination.SweepReport) {
	columns(out, [][]string{
		{"STATUS", "GROUPS", "WAITING", "DRAINING", "HEARTBEATS", "EVENTS RESENT", "RESTORED", "WITHOUT HOOK"},
		{
			string(r.Status), fmt.Sprint(r.Groups), fmt.Sprint(r.Waiting), fmt.Sprint(r.Draining), fmt.Sprint(r.Heartbeats),
			fmt.Sprint(r.EventsResent), fmt.Sprint(r.Restored), fmt.Sprint(r.GroupsWithoutHook),
		},
	})
	if len(r.WithoutHook) > 0 {
		fmt.Fprintln(out, "\ngroups without the hook: "+line(strings.Join(r.WithoutHook, ", ")))
	}
	if !r.ClusterReachable {
		fmt.Fprintln(out, "\nthe cluster could not be read: no event was sent again, and no node was restored")
	}
	if len(r.Unreached) > 0 {
		fmt.Fprintln(out, "\nno time was left for: "+line(strings.Join(r.Unreached, ", ")))
	}
	for _, text := range r.Errors {
		fmt.Fprintln(out, "\nerror: "+line(text))
	}
}

func showCheck(out io.Writer, r termination.CheckReport) {
	rows := [][]string{{"STEP", "OK", "SECONDS", "DETAIL"}}
	for _, s := range r.Steps {
		ok := "yes"
		if !s.OK {
			ok = "NO"
		}
		rows = append(rows, []string{s.Name, ok, fmt.Sprintf("%.1f", s.Seconds), s.Detail})
	}
	columns(out, rows)
	for _, s := range r.Steps {
		if s.Next != "" {
			fmt.Fprintf(out, "\n%s: %s\n", s.Name, line(s.Next))
		}
	}
}

func showSwitchover(out io.Writer, r termination.SwitchoverReport) {
	columns(out, [][]string{
		{"CLUSTER", "STATUS", "ESCORT", "TOOK"},
		{r.Cluster, string(r.Status), escortCell(&r.Escort), r.FinishedAt.Sub(r.StartedAt).Round(time.Second).String()},
	})
	for _, text := range []string{r.Reason, r.Escort.Reason} {
		if text != "" {
			fmt.Fprintln(out, "\n"+line(text))
		}
	}
}

func showResume(out io.Writer, r termination.ResumeReport) {
	columns(out, [][]string{
		{"STATUS", "CLUSTERS", "HELD"},
		{string(r.Status), orNone(strings.Join(r.Clusters, ", ")), orNone(strings.Join(r.Held, ", "))},
	})
	if r.Reason != "" {
		fmt.Fprintln(out, "\n"+line(r.Reason))
	}
}
