// Command infra is the CDK app: it makes a CloudFormation stack of each function's zip that it is given. What the stack is to be
// stands in the zip's own quiesce.yaml, so that the stack and the function in it can never have read different ones.
//
//	go run ./infra dist/function.zip
//
// It writes the cloud assembly to CDK_OUTDIR, where the cdk command looks for it. It needs node, and neither the network nor an
// AWS account.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"
)

func main() { os.Exit(inOwnFolder(run)) }

func run() int {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: infra ZIP...")
		return 2
	}
	deployments, err := readAll(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	newApp(nil, deployments...).Synth(nil)
	return 0
}

// inOwnFolder has jsii put its files where they are taken away again. Its Close would do that at the end as well, but waits for its
// process a second time while it still waits the first time: a data race, which ends in a complaint (internal/kernel/process of
// jsii-runtime-go v1.139.0). So it is closed at the beginning, when it has a folder and no process yet. The process ends with ours.
func inOwnFolder(run func() int) int {
	jsii.Close()
	folder, err := os.MkdirTemp("", "quiesce-infra-")
	if err == nil {
		defer os.RemoveAll(folder)
		err = os.Setenv("TMPDIR", folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a folder for CDK:", err)
		return 1
	}
	return run()
}

// readAll reads every zip, so that all faults are told at once.
func readAll(zips []string) (deployments []deployment, err error) {
	for _, zip := range zips {
		d, fault := readDeployment(zip)
		deployments, err = append(deployments, d), errors.Join(err, fault)
	}
	return deployments, err
}

// newApp is all stacks, and the checks that they must pass. The path of the output is CDK_OUTDIR unless it is given.
func newApp(output *string, deployments ...deployment) awscdk.App {
	app := awscdk.NewApp(&awscdk.AppProps{
		Outdir:             output,
		AnalyticsReporting: jsii.Bool(false), // would add a resource that differs from region to region
		TreeMetadata:       jsii.Bool(false),
	})
	for _, d := range deployments {
		newStack(app, d)
	}
	checkRules(app)
	return app
}
