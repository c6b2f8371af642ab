// Command infra is the CDK app. It creates a CloudFormation stack for each zip of a function. It reads the quiesce.yaml in the
// zip, so that the stack and its function always have the same configuration.
//
//	go run ./infra dist/function.zip
//
// Or it writes the template of a release, with parameters, beside the zip of that release:
//
//	go run ./infra release VERSION dist/release
//
// It writes the cloud assembly to CDK_OUTDIR, where the cdk command reads it. It needs node, but neither the network nor an AWS
// account.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/cxapi"
	"github.com/aws/jsii-runtime-go"
)

func main() { os.Exit(withTempFolder(run)) }

func run() int {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "release":
		return exit(newRelease(os.Args[2], os.Args[3]).write())
	case len(os.Args) < 2 || os.Args[1] == "release":
		fmt.Fprintln(os.Stderr, "usage: infra ZIP...\n       infra release VERSION FOLDER")
		return 2
	}
	deployments, err := readAll(os.Args[1:])
	if err != nil {
		return exit(err)
	}
	return exit(complaints(newApp(nil, deployments...).Synth(nil)))
}

// complaints returns the errors that CDK writes beside the templates, where only the cdk command would show them.
func complaints(assembly cxapi.CloudAssembly) (err error) {
	for _, stack := range *assembly.Stacks() {
		for _, message := range *stack.Messages() {
			//lint:ignore SA1019 the new place of the type is another module, for these lines only
			if message.Level == cxapi.SynthesisMessageLevel_ERROR {
				//lint:ignore SA1019 as above
				err = errors.Join(err, fmt.Errorf("%s: %v", *message.Id, message.Entry.Data))
			}
		}
	}
	return err
}

// exit prints an error, and returns the exit status.
func exit(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// withTempFolder calls run with a temporary folder for the files of jsii, and removes it afterwards. jsii.Close would remove them
// too, but it waits for its process twice at once: a data race, which ends in an error message (internal/kernel/process of
// jsii-runtime-go v1.139.0). So Close is called first, while jsii has a folder but no process. The process ends with this one.
func withTempFolder(run func() int) int {
	jsii.Close()
	folder, err := os.MkdirTemp("", "quiesce-infra-")
	if err == nil {
		defer os.RemoveAll(folder)
		err = os.Setenv("TMPDIR", folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "create a folder for CDK:", err)
		return 1
	}
	return run()
}

// readAll reads every zip, and reports all errors together. Two stacks of one app must differ in their names, also in different regions.
func readAll(zips []string) (deployments []deployment, err error) {
	first := map[string]string{} // the zip of each stack
	for _, zip := range zips {
		d, failed := readDeployment(zip)
		if other, taken := first[d.StackName()]; failed == nil && taken {
			failed = fmt.Errorf("%s:\nstack.name: %s is the stack of %s too: set stack.name in one of them", zip, d.StackName(), other)
		} else if failed == nil {
			first[d.StackName()] = zip
		}
		deployments, err = append(deployments, d), errors.Join(err, failed)
	}
	return deployments, err
}

// newApp creates all stacks, and the rules that they must pass. Without an output path, CDK writes to CDK_OUTDIR.
func newApp(output *string, deployments ...deployment) awscdk.App {
	return newAppWith(nil, output, deployments...)
}

// newAppWith is newApp with a way to find assets. nil: as CDK's bootstrap left them.
func newAppWith(synthesizer awscdk.IReusableStackSynthesizer, output *string, deployments ...deployment) awscdk.App {
	app := awscdk.NewApp(&awscdk.AppProps{
		Outdir:                  output,
		AnalyticsReporting:      jsii.Bool(false), // would add a resource that differs between regions
		TreeMetadata:            jsii.Bool(false),
		DefaultStackSynthesizer: synthesizer,
	})
	for _, d := range deployments {
		newStack(app, d)
	}
	checkRules(app)
	return app
}
