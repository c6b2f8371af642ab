package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
	"github.com/cdklabs/cdk-nag-go/cdknag/v2"
)

// checkRules has every stack checked against AWS's own list of good habits, at each synth:
// https://github.com/cdklabs/cdk-nag/blob/main/RULES.md#awssolutions.
func checkRules(app awscdk.App) {
	awscdk.Aspects_Of(app).Add(cdknag.NewAwsSolutionsChecks(&cdknag.NagPackProps{Verbose: jsii.Bool(true)}), nil)
}

// excuse says why a rule does not hold for something, beside it.
func excuse(something constructs.IConstruct, rule, reason string) {
	cdknag.NagSuppressions_AddResourceSuppressions(something, &[]*cdknag.NagPackSuppression{
		{Id: jsii.String(rule), Reason: jsii.String(reason)},
	}, jsii.Bool(true))
}
