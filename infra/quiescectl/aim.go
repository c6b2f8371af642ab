package main

import (
	"regexp"
	"slices"
	"strings"

	"quiesce/internal/doctor"
)

// tool matches a program that a printed command runs. Of quiescectl, check invokes the function, so it needs the account too.
var tool = regexp.MustCompile(`(^|&& |\| )(kubectl|aws|quiescectl check|quiescectl) `)

// aim makes the commands of a report act on the cluster and the account that were read. Region is the one that was.
func (o *options) aim(report doctor.Report, region string) doctor.Report {
	report.Findings = slices.Clone(report.Findings)
	for i := range report.Findings {
		report.Findings[i].Command = o.aimed(report.Findings[i].Command, region)
	}
	return report
}

// aimed returns the command with the flags that choose the cluster, or the account and the region.
func (o *options) aimed(command, region string) string {
	if o.region != "" {
		region = o.region
	}
	cluster := flag("--kubeconfig", o.kubeconfig) + flag("--context", o.context)
	account := flag("--profile", o.profile) + flag("--region", region)
	flags := map[string]string{"kubectl": cluster, "quiescectl": cluster, "check": cluster + account, "aws": account}
	return tool.ReplaceAllStringFunc(command, func(found string) string { return found + flags[strings.Fields(found)[len(strings.Fields(found))-1]] })
}

// flag returns a flag with its value and a space; empty: it was not given.
func flag(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + doctor.Quote(value) + " "
}
