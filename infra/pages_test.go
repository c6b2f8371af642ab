package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// page returns the text of a page for operators.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

func TestRunbook_EveryAlarm_HasMeaningImpactCheckAndFix(t *testing.T) {
	runbook := page(t, "RUNBOOK.md")
	for _, a := range notifying(of(t, publicStack, "quiesce-prod")) {
		name := strings.TrimPrefix(fmt.Sprint(a["AlarmName"]), "quiesce-prod-")
		_, section, found := strings.Cut(runbook, "\n### "+name+"\n")
		require.True(t, found, name)
		section, _, _ = strings.Cut(section, "\n##")
		for _, part := range []string{"Meaning", "Impact", "Check", "Fix"} {
			require.Regexp(t, `\*\*`+part+`\b[^*]*\*\*`, section, "%s: %s", name, part)
		}
	}
}

func TestRunbook_EveryMetric_HasARow(t *testing.T) {
	runbook := page(t, "RUNBOOK.md")
	for series := range written(t) {
		name, _, _ := strings.Cut(series, " ")
		require.Contains(t, runbook, "\n| `"+name+"` |")
	}
}

func TestRunbook_EveryLogWidget_IsOnTheDashboard(t *testing.T) {
	body := of(t, publicStack, "quiesce-prod").only(t, "AWS::CloudWatch::Dashboard")["DashboardBody"].(string)
	titles := regexp.MustCompile(`[Tt]he dashboard's "([^"]+)"`).FindAllStringSubmatch(page(t, "RUNBOOK.md"), -1)
	require.NotEmpty(t, titles)
	for _, title := range titles {
		require.Contains(t, body, `"title":"`+title[1]+`"`)
	}
}

// The pages for operators name outputs of the stack, and nothing else, as "the output `Name`".
func TestPages_EveryOutput_IsOneOfTheStack(t *testing.T) {
	outputs := map[string]bool{}
	for _, s := range []template{of(t, publicStack, "quiesce-prod"), of(t, privateStack, "drains")} {
		for name := range s.Outputs {
			outputs[name] = true
		}
	}
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	for _, name := range pages {
		for _, output := range regexp.MustCompile("output `([A-Za-z]+)`").FindAllStringSubmatch(page(t, name), -1) {
			require.Contains(t, outputs, output[1], name)
		}
	}
}

func TestSecurity_EveryStatement_HasARow(t *testing.T) {
	security := page(t, "SECURITY.md")
	for _, s := range everyStatement(t) {
		sid := regexp.MustCompile(`\d+$`).ReplaceAllString(s.sid, "1") // one for each tag
		require.Regexp(t, "(?m)^\\|.*`"+sid+"`", security)
	}
}

// wellKnown are the constants of client-go for the labels, annotations and taints that quiesce reads or writes.
var wellKnown = map[string]string{
	"LabelHostname": corev1.LabelHostname, "LabelTopologyZone": corev1.LabelTopologyZone,
	"LabelNodeExcludeBalancers": corev1.LabelNodeExcludeBalancers, "TaintNodeUnschedulable": corev1.TaintNodeUnschedulable,
	"MirrorPodAnnotationKey": corev1.MirrorPodAnnotationKey, "TaintNodeOutOfService": corev1.TaintNodeOutOfService,
	"TaintNodeUnreachable": corev1.TaintNodeUnreachable,
}

// The guide to pgbouncer lists the labels of charts and operators, so only quiesce's own names are looked for there.
func TestConfigurationPage_EveryAnnotationLabelAndTaint_IsListed(t *testing.T) {
	configuration := page(t, "CONFIGURATION.md")
	own := regexp.MustCompile(`"(quiesce/[a-z.-]+)"`)
	foreign := regexp.MustCompile(`"([a-z0-9-]+\.[a-z0-9.-]+\.?[a-z]*/[a-z-]+)"`)
	constant := regexp.MustCompile(`corev1\.((?:Label|TaintNode)[A-Z]\w+|\w+AnnotationKey)`)
	found := map[string]bool{}
	sources, err := filepath.Glob("../internal/*/*.go")
	require.NoError(t, err)
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") || filepath.Base(filepath.Dir(path)) == "doctor" { // which reads for people
			continue
		}
		source := page(t, path)
		for _, match := range own.FindAllStringSubmatch(source, -1) {
			found[match[1]] = true
		}
		if filepath.Base(filepath.Dir(path)) == "drain" {
			for _, match := range foreign.FindAllStringSubmatch(source, -1) {
				found[match[1]] = true
			}
		}
		for _, match := range constant.FindAllStringSubmatch(source, -1) {
			require.Contains(t, wellKnown, match[1], path)
			found[wellKnown[match[1]]] = true
		}
	}
	for _, name := range []string{"quiesce/drain", "quiesce/escort", "karpenter.sh/do-not-disrupt", corev1.LabelHostname} {
		require.Contains(t, found, name)
	}
	for name := range found {
		require.Contains(t, configuration, "`"+name)
	}
}
