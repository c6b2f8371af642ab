package main

import (
	"fmt"
	"time"

	"quiesce/internal/config"
)

// parameters returns the parameters of a release's template. Only ClusterName and CodeBucket have no default. infra/terraform has a
// variable for each.
func parameters() object {
	return object{
		"ClusterName": parameter("Name of the EKS cluster", nil, "AllowedPattern", `^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$`),
		"CodeBucket": parameter("S3 bucket with the zip of this release, in the stack's region", nil,
			"AllowedPattern", `^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`),
		"CodePrefix": parameter("What precedes the zip's name in its S3 key, such as releases/", "", "AllowedPattern", `^([0-9A-Za-z._/-]{0,199}/)?$`),
		"Mode": parameter("shadow plans and reports on real events, drain drains", string(config.ModeShadow),
			"AllowedValues", texts(string(config.ModeShadow), string(config.ModeDrain))),
		"MaxDuration": parameter("How long a drain may take, from the start of the lifecycle action", "30m", "AllowedValues", texts(maxDurations...)),
		"OnDeadline": parameter("What happens to pods that remain at the deadline: force deletes them, keep leaves them to the instance's end",
			string(config.Force), "AllowedValues", texts(string(config.Force), string(config.Keep))),
		"Phases": parameter("Parameter of Systems Manager with the drain order, with its version, such as /quiesce/prod/phases:1. Empty: the default order",
			"", "AllowedPattern", `^([0-9A-Za-z._/-]{1,100}:[0-9]{1,6})?$`),
		"MaxConcurrency": parameter("Most drains at once", "100", "AllowedValues", texts(maxConcurrencies()...)),
		"ReservedConcurrency": parameter("Reserve executions for that many drains. Not in accounts that have too few", "true",
			"AllowedValues", texts("true", "false")),
		"AccessEntry": parameter("Create an access entry in the cluster. false: add the role to aws-auth, as the output AwsAuth says", "true",
			"AllowedValues", texts("true", "false")),
	}
}

// parameter returns a parameter of type String. Without a default, people must give a value.
func parameter(description string, fallback any, rule string, values any) object {
	p := object{"Type": "String", "Description": description, rule: values}
	if fallback != nil {
		p["Default"] = fallback
	}
	return p
}

func texts(values ...string) (all []any) {
	for _, value := range values {
		all = append(all, value)
	}
	return all
}

// The values that CloudFormation cannot compute are looked up in mappings. So their parameters have few values. All of these
// durations have the same heartbeat timeout, which the template therefore contains as a number.
var (
	maxDurations = []string{"10m", "15m", "20m", "30m", "45m", "1h", "90m", "2h", "3h", "4h", "6h", "8h", "12h", "24h", "33h"}
	concurrency  = []int{2, 5, 10, 20, 50, 100, 200, 500, 900}
)

func maxConcurrencies() (all []string) {
	for _, n := range concurrency {
		all = append(all, fmt.Sprint(n))
	}
	return all
}

// The second keys of the mappings.
const (
	longestWaitKey = "LongestWaitSeconds"
	reservedKey    = "ReservedExecutions"
)

// lookUp returns what the mapping of a parameter has for its value.
func lookUp(parameter, key string) object {
	return object{"Fn::FindInMap": []any{parameter + "Values", ref(parameter), key}}
}

// mappings computes what depends on a parameter by the functions that the CDK app uses.
func mappings() object {
	durations, executions := object{}, object{}
	for _, text := range maxDurations {
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(err) // a constant of this file
		}
		durations[text] = object{longestWaitKey: number(longestWait(config.Config{Drain: config.Drain{MaxDuration: d}}).Seconds())}
	}
	for _, n := range concurrency {
		executions[fmt.Sprint(n)] = object{reservedKey: fmt.Sprint(reservedExecutions(config.Config{Stack: config.Stack{MaxConcurrency: n}}))}
	}
	return object{"MaxDurationValues": durations, "MaxConcurrencyValues": executions}
}

// conditions returns both conditions of each switch, and whether there are phases.
func conditions() object {
	all := object{"HasPhases": object{"Fn::Not": []any{object{"Fn::Equals": []any{ref("Phases"), ""}}}}}
	for _, s := range switches {
		all[s.on] = object{"Fn::Equals": []any{ref(s.parameter), "true"}}
		all[s.off] = object{"Fn::Equals": []any{ref(s.parameter), "false"}}
	}
	return all
}
