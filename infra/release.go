package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"quiesce/internal/config"
)

// releaseTemplate is the name of the template in a release.
const releaseTemplate = "template.json"

// releaseText is the configuration of each stack that is made from a release. CloudFormation replaces the parameters, and the
// function reads the result from its environment. The groups are known by tags whose keys are fixed, because the key of an IAM
// condition cannot be a parameter. EKS sets the first tag on the groups of its managed node groups, and people set the second.
// The section stack makes it the whole configuration: the CDK app makes the same stack from it.
const releaseText = `cluster: "${ClusterName}"
autoScalingGroups: [{tag: "eks:cluster-name=${ClusterName}"}, {tag: "quiesce/cluster=${ClusterName}"}]
mode: ${Mode}
lifecycle: {manageHooks: true}
drain: {maxDuration: ${MaxDuration}, onDeadline: ${OnDeadline}}
stack: {name: "${AWS::StackName}", maxConcurrency: ${MaxConcurrency}, reservedConcurrency: ${ReservedConcurrency}, accessEntry: ${AccessEntry}}
${PhasesText}`

// release is what make release writes: one zip and one template for all clusters.
type release struct{ version, zip string }

// newRelease finds the zip of a version in the release's folder.
func newRelease(version, folder string) release {
	return release{version: version, zip: filepath.Join(folder, "quiesce-"+version+".zip")}
}

// write writes the release's template. It is the template that the CDK app makes with a placeholder for each parameter, so the
// two cannot differ. CDK is asked once for each combination of the switches.
func (r release) write() error {
	folder, err := os.MkdirTemp("", "quiesce-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	variants, err := r.synthesize(folder)
	if err != nil {
		return err
	}
	text, err := r.template(variants)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(filepath.Dir(r.zip), releaseTemplate), text, 0o644)
}

// switches are the parameters that decide which resources and properties there are. No text can stand for such a value, so there
// is a template for each combination: the first switch is the lowest bit of its index.
var switches = []struct{ parameter, on, off string }{
	{"ReservedConcurrency", "ReservesConcurrency", "ReservesNoConcurrency"},
	{"AccessEntry", "HasAccessEntry", "HasNoAccessEntry"},
}

// synthesize returns the CDK app's template for each combination of the switches.
func (r release) synthesize(folder string) (variants []map[string]any, err error) {
	for i := range 1 << len(switches) {
		values := placeholderValues()
		for bit, s := range switches {
			values[s.parameter] = fmt.Sprint(i>>bit&1 == 1)
		}
		settings, err := config.Parse([]byte(fill(releaseText, values)), noEnvironment)
		if err != nil {
			return nil, err
		}
		into := filepath.Join(folder, fmt.Sprint(i))
		newReleaseApp(into, deployment{Config: settings, zip: r.zip, text: placeholder("Configuration"), hooksText: placeholder("HooksConfiguration"), version: r.version}).Synth(nil)
		var variant map[string]any
		if err := readJSON(filepath.Join(into, settings.StackName()+".template.json"), &variant); err != nil {
			return nil, err
		}
		if err := r.checkAssets(filepath.Join(into, settings.StackName()+".assets.json")); err != nil {
			return nil, err
		}
		variants = append(variants, variant)
	}
	return variants, nil
}

// newReleaseApp is newApp for a stack that needs nothing that CDK's bootstrap makes.
func newReleaseApp(output string, d deployment) awscdk.App {
	return newAppWith(awscdk.NewDefaultStackSynthesizer(&awscdk.DefaultStackSynthesizerProps{
		FileAssetsBucketName: jsii.String(placeholder("CodeBucket")), GenerateBootstrapVersionRule: jsii.Bool(false),
	}), &output, d)
}

// checkAssets reports an asset that a release does not have.
func (r release) checkAssets(path string) error {
	var manifest struct {
		Files map[string]struct{ Source struct{ Path string } }
	}
	if err := readJSON(path, &manifest); err != nil {
		return err
	}
	want, err := digest(r.zip)
	if err != nil {
		return err
	}
	for _, file := range manifest.Files {
		if filepath.Ext(file.Source.Path) != ".zip" {
			continue // the template itself
		}
		if got, err := digest(filepath.Join(filepath.Dir(path), file.Source.Path)); err != nil || got != want {
			return errors.Join(err, fmt.Errorf("a release has one zip, and the stack needs another: %s", file.Source.Path))
		}
	}
	return nil
}

// digest returns the SHA-256 of a file.
func digest(path string) ([sha256.Size]byte, error) {
	data, err := os.ReadFile(path)
	return sha256.Sum256(data), err
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// The placeholders of numbers. No other number of the template must equal one of them or what is computed from it.
const (
	placeholderDuration    = 20*time.Minute + 34*time.Second
	placeholderConcurrency = 971
)

// placeholder is what stands for a parameter in texts. It is a valid name of a cluster, a stack and a bucket.
func placeholder(parameter string) string { return "Parameter" + parameter }

// placeholderValues returns what stands for each value of releaseText while CDK makes the template. The mode and onDeadline shape
// no resource. A test compares the result with CDK's own for other values.
func placeholderValues() map[string]string {
	return map[string]string{
		"ClusterName": placeholder("ClusterName"), "AWS::StackName": placeholder("StackName"), "Mode": string(config.ModeShadow),
		"OnDeadline": string(config.Force), "MaxDuration": placeholderDuration.String(), "MaxConcurrency": fmt.Sprint(placeholderConcurrency),
	}
}

// fill replaces the variables of a text in the syntax of Fn::Sub. One without a value becomes empty.
func fill(text string, values map[string]string) string {
	return os.Expand(text, func(name string) string { return values[name] })
}

// substitutions returns what replaces each placeholder.
func (r release) substitutions() substitutions {
	settings := config.Config{Drain: config.Drain{MaxDuration: placeholderDuration}, Stack: config.Stack{MaxConcurrency: placeholderConcurrency}}
	return substitutions{
		placeholder("ClusterName"):                    ref("ClusterName"),
		placeholder("StackName"):                      ref("AWS::StackName"),
		placeholder("CodeBucket"):                     ref("CodeBucket"),
		placeholder("Configuration"):                  object{"Fn::Sub": []any{releaseText, object{"PhasesText": phasesText()}}},
		placeholder("HooksConfiguration"):             object{"Fn::Sub": []any{releaseText, object{"PhasesText": ""}}},
		number(longestWait(settings).Seconds()):       lookUp("MaxDuration", longestWaitKey),
		number(float64(placeholderConcurrency)):       ref("MaxConcurrency"),
		number(float64(reservedExecutions(settings))): lookUp("MaxConcurrency", reservedKey),
		"kubectl apply -f infra/rbac.yaml":            "kubectl apply -f rbac.yaml", // where a release has it
	}
}

// phasesText is the section phases of the configuration, which a parameter of Systems Manager has, or nothing. The comment makes a
// new version of the same text a change of the function: Lambda publishes no version without one, and CloudFormation would fail.
func phasesText() any {
	return object{"Fn::If": []any{"HasPhases", object{"Fn::Sub": "# ${Phases}\nphases:\n{{resolve:ssm:${Phases}}}\n"}, ""}}
}

// template returns the release's template from the variants of synthesize.
func (r release) template(variants []map[string]any) ([]byte, error) {
	for _, s := range switches {
		var halved []map[string]any
		for i := range len(variants) / 2 {
			one, err := mergeTemplates(s.on, s.off, variants[2*i+1], variants[2*i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.parameter, err)
			}
			halved = append(halved, one)
		}
		variants = halved
	}
	merged, err := r.substitutions().template(variants[0])
	if err != nil {
		return nil, err
	}
	if err := r.nameCode(merged); err != nil {
		return nil, err
	}
	merged["Description"] = "quiesce " + r.version + ": drains the nodes of an EKS cluster before EC2 Auto Scaling terminates them"
	merged["Parameters"], merged["Mappings"], merged["Conditions"] = parameters(), mappings(), conditions()
	return encode(merged)
}

// nameCode names the zip, the only one (checkAssets), and what makes CloudFormation publish a version. CDK gives a version a new ID with
// each change. CloudFormation must see changes of parameters too, so the description of the version has all that the configuration
// contains: a change replaces the version
// (https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-version.html). With the hash, CloudFormation
// publishes no version from any other zip.
func (r release) nameCode(t map[string]any) error {
	sum, err := digest(r.zip)
	if err != nil {
		return err
	}
	for _, raw := range t["Resources"].(object) {
		properties, _ := raw.(object)["Properties"].(object)
		switch raw.(object)["Type"] {
		case "AWS::Lambda::Function":
			properties["Code"].(object)["S3Key"] = object{"Fn::Sub": "${CodePrefix}" + filepath.Base(r.zip)}
		case "AWS::Lambda::Version":
			properties["CodeSha256"] = base64.StdEncoding.EncodeToString(sum[:])
			properties["Description"] = object{"Fn::Sub": strings.Join(versioned(), " ")}
		}
	}
	return nil
}

// versioned returns the variables of releaseText that the function itself reads.
func versioned() (all []string) {
	for _, name := range []string{"ClusterName", "Mode", "MaxDuration", "OnDeadline", "Phases"} {
		all = append(all, "${"+name+"}")
	}
	return all
}
