package main

import (
	"fmt"
	"strings"
	"time"
)

// knownDigits is how much of the account's number the summary shows: enough for its owner to recognize it, and for nobody else.
const knownDigits = 4

// summary returns one page in Markdown, for an issue.
func (s *smoke) summary() string {
	var b strings.Builder
	verdict := "passed"
	if s.failed != nil {
		verdict = "FAILED"
	}
	fmt.Fprintf(&b, "## quiesce smoke test: %s\n\n", verdict)
	fmt.Fprintf(&b, "%s, quiesce %s, account %s, %s, Kubernetes %s, group %s of cluster %s, instance %s\n\n", s.began.UTC().Format(time.RFC3339),
		s.Version, masked(s.target.account), s.region, or(s.target.kubernetes), s.Group, s.Cluster, or(s.target.instance))
	b.WriteString("| step | result | time | |\n|---|---|---|---|\n")
	for _, r := range s.results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.name, r.verdict(), r.duration(), cell(s.anonymous(r.text())))
	}
	if len(s.checks) > 0 {
		b.WriteString("\n")
		for _, c := range s.checks {
			fmt.Fprintf(&b, "- %s\n", cell(c.String()))
		}
	}
	if r := s.seen.report; r.Status != "" {
		fmt.Fprintf(&b, "\nThe report: %s, %s, %s from start to end, version %s.\n\n", r.Status, or(string(r.LifecycleResult)),
			r.FinishedAt.Sub(r.StartedAt).Round(time.Millisecond), or(r.Version))
		b.WriteString("| phase | pod | outcome | evicted | gone | blocked by |\n|---|---|---|---|---|---|\n")
		for _, p := range r.Pods {
			fmt.Fprintf(&b, "| %s | %s/%s | %s | %s | %s | %s |\n", p.Phase, p.Namespace, p.Name, p.Outcome,
				clock(p.EvictedAt), clock(p.GoneAt), strings.Join(p.BlockedBy, ", "))
		}
	}
	return b.String()
}

// anonymous hides the account's number.
func (s *smoke) anonymous(text string) string {
	if s.target.account == "" {
		return text
	}
	return strings.ReplaceAll(text, s.target.account, masked(s.target.account))
}

func masked(account string) string {
	if len(account) <= knownDigits {
		return or(account)
	}
	return strings.Repeat("*", len(account)-knownDigits) + account[len(account)-knownDigits:]
}

// cell makes a text fit into a table.
func cell(text string) string {
	return strings.NewReplacer("\n", " ", "|", `\|`).Replace(text)
}

func or(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}
