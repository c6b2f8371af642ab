package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// liveAlias is the alias that the stack makes, and that everything invokes.
const liveAlias = "live"

// action is a command that asks the function for something, and shows its answer.
type action[Answer any] struct {
	request func(args []string) (termination.Request, error)
	show    func(io.Writer, Answer)
	failed  func(Answer) bool
}

// addTo makes the command run the action.
func (a action[Answer]) addTo(command *cobra.Command, o *options) *cobra.Command {
	o.addOutput(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		request, err := a.request(args)
		if err != nil {
			return err
		}
		return a.run(c, o, request)
	}
	return command
}

func (a action[Answer]) run(c *cobra.Command, o *options, request termination.Request) error {
	name, err := o.functionName()
	if err != nil {
		return err
	}
	if isTerminal(c.ErrOrStderr()) {
		fmt.Fprintf(c.ErrOrStderr(), "waiting for function %s ...\r", name)
	}
	text, err := o.invoke(c.Context(), name, request)
	if isTerminal(c.ErrOrStderr()) {
		fmt.Fprint(c.ErrOrStderr(), clearLine)
	}
	if err != nil {
		return err
	}
	var answer Answer
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("function %s answers something else than this version expects: %w\nbuild quiescectl from the function's commit, or see the answer with -o json", name, err)
	}
	if err := write(c.OutOrStdout(), o.output, text, func(out io.Writer) { a.show(out, answer) }); err != nil {
		return err
	}
	if a.failed(answer) {
		return errFindings
	}
	return nil
}

// write writes an answer in the form that was asked for.
func write(out io.Writer, form string, text []byte, show func(io.Writer)) (err error) {
	var b bytes.Buffer
	switch form {
	case asJSON:
		err = json.Indent(&b, text, "", "  ")
		b.WriteByte('\n')
	case asYAML:
		var converted []byte
		converted, err = yaml.JSONToYAML(text)
		b.Write(converted)
	default:
		show(&b)
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	_, err = out.Write(b.Bytes())
	return err
}

// write writes a value of this program. The table is for people.
func (o *options) write(out io.Writer, value any, table string) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return write(out, o.output, text, func(b io.Writer) {
		_, _ = io.WriteString(b, table) // to memory
	})
}

// functionName returns the function and the alias that people invoke.
func (o *options) functionName() (string, error) {
	if o.function != "" {
		return o.function, nil
	}
	cluster := o.cluster
	if cluster == "" {
		_, named, err := o.connect()
		if err != nil || named == "" {
			return "", errors.New("the cluster's name is not known: name it with --cluster, or the function with --function")
		}
		cluster = named
	}
	return config.Config{Cluster: cluster}.StackName() + ":" + liveAlias, nil
}

// invoke asks the function, and waits for its answer: a drain may take 15 minutes. It does not ask twice.
func (o *options) invoke(ctx context.Context, name string, request termination.Request) ([]byte, error) {
	settings, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(o.region), awsconfig.WithSharedConfigProfile(o.profile), awsconfig.WithRetryMaxAttempts(1))
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", err)
	}
	if settings.Region == "" {
		return nil, errors.New("the AWS region is not known: name it with --region")
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	answer, err := lambda.NewFromConfig(settings).Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: payload})
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return nil, fmt.Errorf("there is no function %s in %s: name it with --function, or the region with --region", name, settings.Region)
	}
	if err != nil {
		return nil, fmt.Errorf("invoke function %s: %w", name, err)
	}
	if answer.FunctionError != nil {
		return nil, functionError(name, aws.ToString(answer.FunctionError), answer.Payload)
	}
	return answer.Payload, nil
}

// functionError returns the error that a function answered. Its type says what became of the drain (infra/README.md).
func functionError(name, kind string, payload []byte) error {
	var failure struct{ ErrorType, ErrorMessage string }
	_ = json.Unmarshal(payload, &failure) // an empty failure is answered with its kind
	next := "see its log, and infra/RUNBOOK.md"
	if failure.ErrorType == "Incomplete" {
		next = "a later invocation continues the drain: follow its log"
	}
	return fmt.Errorf("function %s: %s: %s\n%s", name, cmp.Or(failure.ErrorType, kind), drain.Short(line(failure.ErrorMessage)), next)
}
