// Command afterdeploy says whether a deployment works: it invokes the check of each deployed function, and asks whether anyone
// subscribes to the topic of its alarms. `make deploy` ends with it. Its exit status is 1 if a check failed.
//
//	go run ./infra/afterdeploy dist/outputs.json
//
// The file has the outputs of the stacks, as `cdk deploy --outputs-file` writes it. The credentials are those of the person who deploys.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
)

const (
	// tries is how often a failed check is tried, and pause the time between two. EKS documents that an access entry takes effect with
	// delay, seconds as a rule. So the first check of a new stack may come too early. A stack that stays broken costs a minute more.
	tries = 4
	pause = 20 * time.Second
	// timeout bounds the requests about one stack, all tries included. A check ends within three minutes.
	timeout = 15 * time.Minute
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: afterdeploy OUTPUTS")
		os.Exit(2)
	}
	stacks, err := readOutputs(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "afterdeploy:", err)
		os.Exit(1)
	}
	if !run(context.Background(), os.Stdout, stacks, pause) {
		os.Exit(1)
	}
}

// stack is a deployed stack, and the outputs that say where its function and its alarms are.
type stack struct {
	name     string
	Function string // ARN, with its alias
	Alarms   string // ARN of the topic
}

// readOutputs returns the stacks of the file, by name (https://docs.aws.amazon.com/cdk/v2/guide/ref-cli-cmd-deploy.html).
func readOutputs(path string) (stacks []stack, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := map[string]stack{}
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		s := found[name]
		if s.name = name; s.Alarms == "" || s.region() == "" {
			return nil, fmt.Errorf("%s: stack %s has no outputs Function and Alarms", path, name)
		}
		stacks = append(stacks, s)
	}
	if len(stacks) == 0 {
		return nil, fmt.Errorf("%s has no stack", path)
	}
	return stacks, nil
}

// region returns the region of the stack, and account its account: those of its function. Both are empty if that is no ARN.
func (s stack) region() string {
	function, _ := arn.Parse(s.Function)
	return function.Region
}

func (s stack) account() string {
	function, _ := arn.Parse(s.Function)
	return function.AccountID
}

// run checks all stacks, writes what it found, and reports whether all checks succeeded.
func run(ctx context.Context, out io.Writer, stacks []stack, pause time.Duration) (ok bool) {
	ok = true
	for _, s := range stacks {
		sdk, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(s.region()))
		if err != nil {
			fmt.Fprintf(out, "\n%s: load the AWS settings: %v\n", s.name, err)
			ok = false
			continue
		}
		ok = examine(ctx, out, sdk, s, pause) && ok
	}
	return ok
}

// examine writes a table about one stack, and reports whether its check succeeded.
func examine(ctx context.Context, out io.Writer, sdk aws.Config, s stack, pause time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	fmt.Fprintf(out, "\nChecking %s\n", s.Function)
	steps, ok := check(ctx, out, sdk, s, pause)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range append(steps, subscribers(ctx, sdk, s)) {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", line.result, line.name, line.detail)
		if line.next != "" {
			fmt.Fprintf(table, "  \t\tNext: %s\n", line.next)
		}
	}
	_ = table.Flush() // out is a terminal: nothing could be done
	return ok
}

// line is one line of the table.
type line struct{ result, name, detail, next string }

// The results of lines.
const (
	good    = "ok"
	failed  = "FAILED"
	warning = "WARNING"
)
