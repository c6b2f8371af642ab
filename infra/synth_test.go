package main

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/jsii-runtime-go"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/need"
)

// The configurations to synthesize, each once for all tests.
const (
	// public is the shortest configuration: a cluster with a public endpoint, and defaults for the rest.
	public = `
cluster: prod
autoScalingGroups: [workers-a, workers-b, "batch-*"]
mode: drain
`
	// private has no default in the section stack, and is for another partition than aws.
	private = `
cluster: vault
autoScalingGroups: [workers-a, "batch-*-eu", "gpu-[ab]?"]
lifecycle: {hook: drain-me, onFailure: ABANDON}
mode: drain
drain: {maxDuration: 40h, onRebalanceRecommendation: true, onSpotInterruption: true, onScheduledChange: true}
phases:
  - name: poolers
    match: {namespaces: [db]}
    escort: {pgbouncer: {port: 6432, secretArn: "arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:pgbouncer-admin-a1b2c3"}}
  - {name: read-only caches, match: {namespaces: [cache]}, escort: {pgbouncer: {connectVia: podIP, secretRef: {namespace: cache, name: pgbouncer-admin}}}}
  - {name: remote, match: {namespaces: [far]}, escort: {pgbouncer: {connectVia: portForward, secretRef: {namespace: far, name: pgbouncer-admin}}}}
stack:
  name: drains
  account: "111122223333"
  region: us-gov-west-1
  maxConcurrency: 10
  reservedConcurrency: false
  logRetentionDays: 365
  accessEntry: false
  clusterEndpoint: https://0123456789ABCDEF.gr7.us-gov-west-1.eks.amazonaws.com
  clusterCA: ` + someCA + `
  vpc: {id: vpc-0123abcd, subnets: [subnet-0123abcd, subnet-0123abce], clusterSecurityGroup: sg-0123abcd, dualStack: true,
        podSecurityGroups: [sg-0123abce, sg-0123abcf]}
  kmsKeys: ["arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
  alarmTopic: arn:aws-us-gov:sns:us-gov-west-1:111122223333:on-call
  archiveReports: true
`
	// someCA is a CA certificate, in the form that EKS returns.
	someCA = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJjVENDQVJlZ0F3SUJBZ0lVUHpHbHBVVDNWdVBhQ1dHMW1qUHRXTGVLN1FZd0NnWUlLb1pJemowRUF3SXcK" +
		"RFRFTE1Ba0dBMVVFQXd3Q1kyRXdJQmNOTWpZeE1USXhNVFExT0RVeVdoZ1BNakV5TmpFd01qZ3hORFU0TlRKYQpNQTB4Q3pBSkJnTlZCQU1NQW1OaE1Ga3dFd1lI" +
		"S29aSXpqMENBUVlJS29aSXpqMERBUWNEUWdBRWlLNVdQVkI5Clc4NDUvdDF3U1FZNU9LQkg5UENRKzBPcnNDMGFGcldURUgyVnhlL1NXREJCckNKL3FmNmdOMHEw" +
		"YTdkd2kyY1QKdDlFWFUra25mNkFaS0tOVE1GRXdIUVlEVlIwT0JCWUVGR3BwNGlBaXZBTENlSXR3RURha0FCS0FWOERxTUI4RwpBMVVkSXdRWU1CYUFGR3BwNGlB" +
		"aXZBTENlSXR3RURha0FCS0FWOERxTUE4R0ExVWRFd0VCL3dRRk1BTUJBZjh3CkNnWUlLb1pJemowRUF3SURTQUF3UlFJZ1NSdTB5dmxQR29CcFhqM2pMQkJqZU1h" +
		"bThSZUZGNUZRSXJxYUdlZzkKNFdZQ0lRRC84bmVVa3FLcnVLV0hQNnRMSklRNjFmVzA2QnZDZHkrSngreGgzTjhQdXc9PQotLS0tLUVORCBDRVJUSUZJQ0FURS0t" +
		"LS0tCg=="
	// managed has groups of each kind, and manages their hooks. Its main function is in a VPC.
	managed = `
cluster: prod
autoScalingGroups: [workers-a, "batch-*", {tag: "k8s.io/cluster/prod=owned"}, {tag: "team=a b"}]
lifecycle: {manageHooks: true}
mode: drain
stack:
  name: managed
  vpc: {id: vpc-0123abcd, subnets: [subnet-0123abcd], clusterSecurityGroup: sg-0123abcd}
`
	// second is another cluster in the same app as public.
	second = "{cluster: test_eu, autoScalingGroups: [workers-a], mode: drain, stack: {name: quiesce-test-eu}}"
)

var (
	publicStack  = sync.OnceValues(func() (map[string]template, error) { return synthesize(public, second) })
	privateStack = sync.OnceValues(func() (map[string]template, error) { return synthesize(private) })
	managedStack = sync.OnceValues(func() (map[string]template, error) { return synthesize(managed) })
)

func TestMain(m *testing.M) { os.Exit(withTempFolder(m.Run)) }

// of returns the stack of a configuration. Without node, the test is skipped, or fails in CI.
func of(t *testing.T, synthesized func() (map[string]template, error), name string) template {
	t.Helper()
	requireNode(t)
	stacks, err := synthesized()
	require.NoError(t, err)
	require.Contains(t, stacks, name)
	return stacks[name]
}

// requireNode skips a test without node, which CDK needs. make setup installs it.
func requireNode(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("node")
	need.Part(t, err)
}

// synthesize returns the stacks of configurations, by name.
func synthesize(configurations ...string) (map[string]template, error) {
	folder, err := os.MkdirTemp("", "quiesce-synth-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	if err := synthesizeInto(folder, configurations...); err != nil {
		return nil, err
	}
	return templatesIn(folder)
}

func synthesizeInto(folder string, configurations ...string) error {
	var zips []string
	for i, configuration := range configurations {
		path := filepath.Join(folder, fmt.Sprintf("function-%d.zip", i))
		if err := writeZip(path, configuration); err != nil {
			return err
		}
		zips = append(zips, path)
	}
	deployments, err := readAll(zips)
	if err != nil {
		return err
	}
	return complaints(newApp(jsii.String(folder), deployments...).Synth(nil))
}

// writeZip writes the zip of a function, with the parts that a stack reads.
func writeZip(path, configuration string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	archive := zip.NewWriter(file)
	for name, text := range map[string]string{"quiesce.yaml": configuration} {
		entry, err := archive.Create(name)
		if err != nil {
			return err
		}
		if _, err := entry.Write([]byte(text)); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}

func templatesIn(folder string) (map[string]template, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.template.json"))
	stacks := map[string]template{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		raw := template{text: string(text)}
		if err := json.Unmarshal(text, &raw); err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".template.json")
		if raw.complaints, err = complaintsIn(folder); err != nil {
			return nil, err
		}
		stacks[name] = raw.resolved()
	}
	return stacks, err
}

// template is the template of a stack. Values that CloudFormation computes at deployment are text: <Region>, or
// {SQS::Queue quiesce-prod}.Arn.
type template struct {
	Resources map[string]resource
	Outputs   map[string]struct {
		Value       any
		Description string
	}
	complaints []string
	text       string // as it was written
}

type resource struct {
	Type           string
	Properties     map[string]any
	DependsOn      []string
	DeletionPolicy string
	needs          []string // IDs of resources that are created before this one
}

func (t template) resolved() template {
	plain := template{Resources: map[string]resource{}, Outputs: t.Outputs, complaints: t.complaints, text: t.text}
	for id, r := range t.Resources {
		r.needs = append(t.references(r.Properties), r.DependsOn...)
		r.Properties, _ = t.resolve(r.Properties).(map[string]any)
		plain.Resources[id] = r
	}
	for name, o := range plain.Outputs {
		o.Value = t.resolve(o.Value)
		plain.Outputs[name] = o
	}
	return plain
}

func (t template) resolve(value any) any {
	switch value := value.(type) {
	case map[string]any:
		if text, is := t.intrinsic(value); is {
			return text
		}
		plain := map[string]any{}
		for key, item := range value {
			plain[key] = t.resolve(item)
		}
		return plain
	case []any:
		plain := make([]any, len(value))
		for i, item := range value {
			plain[i] = t.resolve(item)
		}
		return plain
	}
	return value
}

// intrinsic returns the text of a CloudFormation function.
func (t template) intrinsic(value map[string]any) (text string, is bool) {
	if len(value) != 1 {
		return "", false
	}
	if ref, is := value["Ref"].(string); is {
		if pseudo, is := strings.CutPrefix(ref, "AWS::"); is {
			return "<" + pseudo + ">", true
		}
		return t.name(ref), true
	}
	if path, is := value["Fn::GetAtt"].([]any); is {
		return t.name(path[0].(string)) + "." + path[1].(string), true
	}
	if join, is := value["Fn::Join"].([]any); is {
		var parts []string
		for _, part := range join[1].([]any) {
			parts = append(parts, fmt.Sprint(t.resolve(part)))
		}
		return strings.Join(parts, join[0].(string)), true
	}
	return "", false
}

// name returns a resource's type and, if it has one, its name. CDK chooses the IDs.
func (t template) name(id string) string {
	r := t.Resources[id]
	words := []string{strings.TrimPrefix(r.Type, "AWS::")}
	for _, key := range []string{"QueueName", "FunctionName", "LogGroupName", "AlarmName", "Name"} {
		if name, is := r.Properties[key].(string); is {
			words = append(words, name)
		}
	}
	return "{" + strings.Join(words, " ") + "}"
}

func (t template) references(value any) (ids []string) {
	switch value := value.(type) {
	case map[string]any:
		if ref, is := value["Ref"].(string); is {
			ids = append(ids, ref)
		}
		if path, is := value["Fn::GetAtt"].([]any); is {
			ids = append(ids, path[0].(string))
		}
		for _, item := range value {
			ids = append(ids, t.references(item)...)
		}
	case []any:
		for _, item := range value {
			ids = append(ids, t.references(item)...)
		}
	}
	return ids
}

// all returns the properties of every resource of a type.
func (t template) all(kind string) (found []map[string]any) {
	for _, r := range t.Resources {
		if r.Type == kind {
			found = append(found, r.Properties)
		}
	}
	return found
}

// only returns the one resource of a type with these properties.
func (t template) only(tt *testing.T, kind string, properties ...any) map[string]any {
	tt.Helper()
	found := slices.DeleteFunc(t.all(kind), func(has map[string]any) bool {
		for i := 0; i+1 < len(properties); i += 2 {
			if fmt.Sprint(has[properties[i].(string)]) != fmt.Sprint(properties[i+1]) {
				return true
			}
		}
		return false
	})
	require.Len(tt, found, 1, "%s %v", kind, properties)
	return found[0]
}

// complaintsIn returns the errors and warnings of a synth, including those of cdk-nag.
func complaintsIn(folder string) (complaints []string, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var content any
		if err := json.Unmarshal(text, &content); err != nil {
			return nil, err
		}
		complaints = append(complaints, complaintsOf(content)...)
	}
	return complaints, err
}

func complaintsOf(value any) (complaints []string) {
	switch value := value.(type) {
	case map[string]any:
		if kind := fmt.Sprint(value["type"]); kind == "aws:cdk:error" || kind == "aws:cdk:warning" {
			return []string{fmt.Sprint(value["data"])}
		}
		for _, item := range value {
			complaints = append(complaints, complaintsOf(item)...)
		}
	case []any:
		for _, item := range value {
			complaints = append(complaints, complaintsOf(item)...)
		}
	}
	return complaints
}

// statementsOf returns the statements of a policy document.
func statementsOf(document any) (statements []object) {
	for _, statement := range document.(object)["Statement"].([]any) {
		statements = append(statements, statement.(object))
	}
	return statements
}

func targetOf(t *testing.T, rule object) object {
	t.Helper()
	targets := rule["Targets"].([]any)
	require.Len(t, targets, 1)
	return targets[0].(object)
}
