package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// liveAlias is the alias that the stack makes, and that everything invokes.
const liveAlias = "live"

// action is a command that asks the function for something, and shows its answer.
type action struct {
	termination.Action
	use, short, long, example string
	argument                  func(r *termination.Request, o *options, text string) error // puts the argument into the request; nil: there is none
	flags                     func(*pflag.FlagSet, *termination.Request)                  // of the command; nil: none
	show                      func(answer []byte) (table func(io.Writer), err error)
}

// shown returns how an answer of this type is shown.
func shown[Answer any](show func(io.Writer, Answer)) func([]byte) (func(io.Writer), error) {
	return func(text []byte) (func(io.Writer), error) {
		var answer Answer
		if err := json.Unmarshal(text, &answer); err != nil {
			return nil, fmt.Errorf("the function has answered in a form that this version does not know: %w\nbuild quiescectl from the function's commit, or see the answer with -o json", err)
		}
		return func(out io.Writer) { show(out, answer) }, nil
	}
}

// asker gets the answer to a request.
type asker func(*cobra.Command, termination.Request) ([]byte, error)

// command returns the command of the action.
func (a action) command(o *options, ask asker) *cobra.Command {
	request := termination.Request{Action: a.Action}
	command := &cobra.Command{Use: a.use, Short: a.short, Long: a.long, Example: a.example, Args: cobra.NoArgs}
	o.addOutput(command)
	if a.flags != nil {
		a.flags(command.Flags(), &request)
	}
	if a.argument != nil {
		command.Args = oneArgument
	}
	command.RunE = func(c *cobra.Command, args []string) error {
		if a.argument != nil {
			if err := a.argument(&request, o, args[0]); err != nil {
				return err
			}
		}
		return a.run(c, o, request, ask)
	}
	return command
}

// oneArgument requires one argument, and shows which.
func oneArgument(c *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return fmt.Errorf("%s needs one argument, not %d\nfor example:\n%s", c.CommandPath(), len(args), c.Example)
}

func (a action) run(c *cobra.Command, o *options, request termination.Request, ask asker) error {
	text, err := ask(c, request)
	if err != nil {
		return err
	}
	table, err := func(io.Writer) {}, error(nil)
	if o.output == asTable {
		if table, err = a.show(text); err != nil {
			return err
		}
	}
	if err := write(c.OutOrStdout(), o.output, text, table); err != nil {
		return err
	}
	var answer struct {
		termination.Status
		Node, Version, Commit string
		Errors                []string // of a sweep, which goes on after them
		Unreached             []string
	}
	err = json.Unmarshal(text, &answer)
	noteVersion(c.ErrOrStderr(), answer.Version, answer.Commit)
	if err == nil && a.Action == termination.ActionPlan && answer.Node == "" {
		fmt.Fprintln(c.ErrOrStderr(), "list nodes:", o.aimed("kubectl get nodes", ""))
		return errFindings
	}
	if err != nil || isBad(a.Action, answer.Status) || len(answer.Errors)+len(answer.Unreached) > 0 {
		return errFindings
	}
	return nil
}

// noteVersion says that the function was built from another commit than this tool: their reports may differ. Builds that do not know theirs
// are not compared.
func noteVersion(out io.Writer, ofFunction, built string) {
	const unknown = "unknown"
	if built != "" && built != unknown && commit != unknown && built != commit {
		fmt.Fprintf(out, "note: the function is version %s (commit %s), and this quiescectl is %s (commit %s): build it from the function's commit\n",
			line(ofFunction), line(built), version, commit)
	}
}

// progress says on a terminal what is done, until done is called.
func (o *options) progress(c *cobra.Command, text string) (done func()) {
	if !isTerminal(c.ErrOrStderr()) {
		return func() {}
	}
	fmt.Fprint(c.ErrOrStderr(), text+"\r")
	return func() { fmt.Fprint(c.ErrOrStderr(), clearLine) }
}

// askFunction asks the function.
func (o *options) askFunction(c *cobra.Command, request termination.Request) ([]byte, error) {
	name, region, err := o.functionName()
	if err != nil {
		return nil, err
	}
	done := o.progress(c, "waiting for function "+name+" ...")
	defer done()
	return o.invoke(c.Context(), name, cmp.Or(o.region, region), request)
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

// functionName returns the function and the alias that people invoke. If its name follows from the context, so does the region: a cluster of
// the same name may be in another. Empty: that of the environment.
func (o *options) functionName() (name, region string, err error) {
	if o.function != "" {
		return withAlias(o.function), "", nil
	}
	cluster := o.cluster
	if cluster == "" {
		_, of, err := o.connect()
		if err != nil {
			return "", "", noFunctionError{fmt.Errorf("the cluster's name is not known: %w\nor name it with --cluster, or the function with --function", err)}
		}
		if of.name == "" {
			return "", "", noFunctionError{errors.New("the cluster's name is not known, because the context does not say it: name it with --cluster, or the function with --function")}
		}
		cluster, region = of.name, of.region
	}
	settings := config.Config{Cluster: cluster}
	if err := settings.CheckStackName(); err != nil {
		return "", "", noFunctionError{fmt.Errorf("the function's name does not follow from cluster %s, because another cluster could have it too: name it with --function", cluster)}
	}
	return withAlias(settings.StackName()), region, nil
}

// withAlias adds the alias to the name or ARN of a function, unless it has one or a version. Events go through the alias: a name alone is
// that of $LATEST, which may have been rolled back.
func withAlias(function string) string {
	name := function[strings.LastIndex(function, ":function:")+1:]
	if strings.Contains(strings.TrimPrefix(name, "function:"), ":") {
		return function
	}
	return function + ":" + liveAlias
}

// withoutAlias returns the name or ARN of a function without its alias or version.
func withoutAlias(function string) string {
	begin := strings.LastIndex(function, ":function:")
	if begin >= 0 {
		begin += len(":function:")
	}
	name, _, _ := strings.Cut(function[max(0, begin):], ":")
	return function[:max(0, begin)] + name
}

// invoke asks the function, and waits for its answer: a drain may take 15 minutes. It does not ask twice.
func (o *options) invoke(ctx context.Context, name, region string, request termination.Request) ([]byte, error) {
	settings, err := o.loadAWS(ctx, awsconfig.LoadDefaultConfig, awsconfig.WithRegion(region), awsconfig.WithRetryMaxAttempts(1))
	if err != nil {
		return nil, o.advised(err, "", "")
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	answer, err := lambda.NewFromConfig(settings).Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: payload})
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return nil, noFunctionError{fmt.Errorf("there is no function %s in %s: name it with --function, or the region with --region, or deploy it (infra/README.md)", name, settings.Region)}
	}
	if err != nil && ctx.Err() != nil {
		next := "its log has the result"
		if request.Action == termination.ActionDrain {
			next = "quiescectl watch shows the drains that run"
		}
		return nil, fmt.Errorf("stopped waiting for function %s, which goes on if it was reached: %s", name, next)
	}
	if err != nil {
		return nil, o.advised(fmt.Errorf("invoke function %s: %w", name, err), "", "lambda:InvokeFunction")
	}
	if answer.FunctionError != nil {
		return nil, functionError(name, aws.ToString(answer.FunctionError), answer.Payload)
	}
	return answer.Payload, nil
}

// noFunctionError says that there is no such function, or that its name is not known.
type noFunctionError struct{ error }

// functionError returns the error that a function answered. Its type says what became of the drain (infra/README.md).
func functionError(name, kind string, payload []byte) error {
	var failure struct{ ErrorType, ErrorMessage string }
	_ = json.Unmarshal(payload, &failure) // an empty failure is answered with its kind
	next := "see its log, and infra/RUNBOOK.md"
	if failure.ErrorType == "Incomplete" {
		next = "if the instance waits on the hook, a later invocation continues the drain: follow its log; otherwise run the command again"
	}
	return fmt.Errorf("function %s: %s: %s\n%s", name, cmp.Or(failure.ErrorType, kind), drain.Short(line(failure.ErrorMessage)), next)
}
