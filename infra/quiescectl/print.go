package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"quiesce/internal/doctor"
)

// colors are of terminals (ECMA-48).
var colors = map[doctor.Severity]string{doctor.Critical: "\033[1;31m", doctor.Warning: "\033[33m", doctor.Info: "\033[36m"}

const noColor = "\033[0m"

// print writes a report in the form that was asked for.
func (o *options) print(out io.Writer, report doctor.Report) error {
	return o.write(out, report, table(report, isTerminal(out) && os.Getenv("NO_COLOR") == ""))
}

// table returns the report for a person.
func table(report doctor.Report, colored bool) string {
	var b strings.Builder
	for _, f := range report.Findings {
		severity := fmt.Sprintf("%-8s", strings.ToUpper(string(f.Severity)))
		if colored {
			severity = colors[f.Severity] + severity + noColor
		}
		fmt.Fprintf(&b, "%s  %s: %s\n", severity, line(f.Where), line(f.What))
		fmt.Fprintf(&b, "          costs  %s\n", line(f.Cost))
		fmt.Fprintf(&b, "          fix    %s\n", line(f.Fix))
		if f.Command != "" {
			fmt.Fprintf(&b, "          run    %s\n", line(f.Command))
		}
	}
	s := report.Summary
	if len(report.Findings) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%d critical, %d warning, %d info: %d checks of %d nodes, %d pods and %d Auto Scaling groups\n",
		s.Critical, s.Warning, s.Info, report.Checks, s.Nodes, s.Pods, s.Groups)
	return b.String()
}
