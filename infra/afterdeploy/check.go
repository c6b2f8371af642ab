package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"

	"quiesce/internal/termination"
)

// check invokes the function's check until it succeeds, at most a few times. It returns a line per step.
func check(ctx context.Context, out io.Writer, sdk aws.Config, s stack, pause time.Duration) (lines []line, ok bool) {
	client := lambda.NewFromConfig(sdk)
	for try := 1; ; try++ {
		report, err := invoke(ctx, client, s)
		if err != nil {
			return []line{{failed, "check", err.Error(), s.nextStep(err)}}, false
		}
		if ok = report.Status == termination.StatusChecked; ok || try == tries {
			return stepLines(report), ok
		}
		fmt.Fprintf(out, "Failed: %s. A new access entry takes a moment: trying again in %v\n", strings.Join(report.Failed(), ", "), pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// nextStep says what a person does who could not invoke the function. CDK deploys to another account through a role of that account,
// which may not invoke functions.
func (s stack) nextStep(err error) string {
	if api, is := errors.AsType[smithy.APIError](err); is && strings.HasPrefix(api.ErrorCode(), "AccessDenied") {
		return "invoke it with credentials of account " + s.account() + " that may: set AWS_PROFILE, then go run ./infra/afterdeploy dist/outputs.json"
	}
	return "infra/README.md says what the person who deploys needs"
}

// invoke invokes the check once (https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html).
func invoke(ctx context.Context, client *lambda.Client, s stack) (report termination.CheckReport, err error) {
	payload, err := json.Marshal(termination.Request{Action: termination.ActionCheck})
	if err != nil {
		return report, err
	}
	answer, err := client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &s.Function, Payload: payload})
	if err != nil {
		return report, fmt.Errorf("invoke %s: %w", s.Function, err)
	}
	if answer.FunctionError != nil {
		return report, fmt.Errorf("%s answered with an error: %.1000s", s.Function, answer.Payload)
	}
	if err := json.Unmarshal(answer.Payload, &report); err != nil {
		return report, fmt.Errorf("read the answer of %s: %w", s.Function, err)
	}
	return report, nil
}

func stepLines(report termination.CheckReport) (lines []line) {
	for _, step := range report.Steps {
		result := good
		if !step.OK {
			result = failed
		}
		lines = append(lines, line{result, step.Name, fmt.Sprintf("%s (%.1f s)", step.Detail, step.Seconds), step.Next})
	}
	return lines
}
