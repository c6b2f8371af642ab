package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// The bounds of the steps. A step ends as soon as its condition holds, so a generous bound costs only a failed run its time. The
// usual times are in test/README.md.
const (
	askLimit    = time.Minute
	deployLimit = 30 * time.Minute
	podsLimit   = 5 * time.Minute  // nodes pull an image first
	planLimit   = 5 * time.Minute  // EKS takes a while to know a new access entry
	goneLimit   = 25 * time.Minute // maxDrain, the instance's own shutdown, and what AWS takes between
	reportLimit = 3 * time.Minute  // a log is searchable after seconds
	undoLimit   = 30 * time.Minute // CloudFormation deletes the stack
	groupLimit  = 15 * time.Minute // a new instance is in service after its launch hooks and its health checks
)

// smoke is one run.
type smoke struct {
	settings
	region string
	caller *sts.Client
	asg    *autoscaling.Client
	eks    *eks.Client
	lambda *lambda.Client
	logs   *cloudwatchlogs.Client
	kube   kubernetes.Interface
	host   string // the API server that KUBECONFIG names

	began   time.Time
	results []result
	undo    []step // in the order of what they undo

	target target
	before groupState
	path   string // of the configuration
	pods   *podWatch
	plan   time.Time // when the plan's invocation started, by AWS's clock
	seen   observed
	checks []check
	failed error
}

// target is where the run happens.
type target struct {
	account, kubernetes, instance, node, zone string
	hadRBAC                                   bool
}

// step is one step of the run. What do returns is for people.
type step struct {
	name  string
	limit time.Duration
	do    func(ctx context.Context) (note string, err error)
}

type result struct {
	name, note string
	took       time.Duration
	err        error
}

// newSmoke makes the clients. Endpoints, credentials and region come from the environment, as for the AWS CLI.
func newSmoke(ctx context.Context, set settings) (*smoke, error) {
	sdk, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	if sdk.Region == "" {
		return nil, errors.New("AWS_REGION is not set, and the profile has no region")
	}
	rest, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read KUBECONFIG: %w", err)
	}
	kube, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, err
	}
	return connect(sdk, kube, rest.Host, set), nil
}

func connect(sdk aws.Config, kube kubernetes.Interface, host string, set settings) *smoke {
	return &smoke{
		settings: set, region: sdk.Region, kube: kube, host: host,
		caller: sts.NewFromConfig(sdk), asg: autoscaling.NewFromConfig(sdk), eks: eks.NewFromConfig(sdk),
		lambda: lambda.NewFromConfig(sdk), logs: cloudwatchlogs.NewFromConfig(sdk),
	}
}

// run takes all steps until one fails, and then cleans up, whatever happened. After an interrupt it cleans up as well.
func (s *smoke) run(ctx context.Context) error {
	s.began = time.Now()
	for _, next := range s.steps() {
		if s.failed = s.take(ctx, next); s.failed != nil {
			break
		}
	}
	s.failed = errors.Join(s.failed, s.cleanUp(context.WithoutCancel(ctx)))
	return s.failed
}

func (s *smoke) steps() []step {
	return []step{
		{"preflight", askLimit, s.preflight},
		{"configure", askLimit, s.configure},
		{"deploy", deployLimit, s.deploy},
		{"place test pods", podsLimit, s.placePods},
		{"plan", planLimit, s.planDrain},
		{"terminate one instance", askLimit, s.terminate},
		{"wait until it is gone", goneLimit, s.awaitEnd},
		{"read the report", reportLimit, s.readReport},
		{"compare", askLimit, s.compare},
	}
}

// cleanUp undoes what was done, the latest first. A failure does not keep it from undoing the rest.
func (s *smoke) cleanUp(ctx context.Context) (failed error) {
	for _, next := range slices.Backward(s.undo) {
		failed = errors.Join(failed, s.take(ctx, next))
	}
	return failed
}

// take takes one step and prints how it went.
func (s *smoke) take(ctx context.Context, next step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, next.limit, fmt.Errorf("not done after %s", next.limit))
	defer cancel()
	fmt.Fprintf(s.Out, "smoke: %s ...\n", next.name)
	began := time.Now()
	note, err := next.do(ctx)
	r := result{next.name, note, time.Since(began), err}
	s.results = append(s.results, r)
	fmt.Fprintf(s.Out, "smoke: %s: %s after %s: %s\n", r.name, r.verdict(), r.duration(), r.text())
	if err != nil {
		return fmt.Errorf("%s: %w", next.name, err)
	}
	return nil
}

func (r result) verdict() string {
	if r.err != nil {
		return "FAILED"
	}
	return "ok"
}

func (r result) duration() time.Duration {
	if r.took < time.Second {
		return r.took.Round(time.Millisecond)
	}
	return r.took.Round(100 * time.Millisecond)
}

func (r result) text() string {
	if r.err != nil {
		return r.err.Error()
	}
	return r.note
}

// until asks again and again until the answer is yes, or ctx ends. An error is an answer that may get better.
func (s *smoke) until(ctx context.Context, what string, ask func() (bool, error)) error {
	tick := time.NewTicker(s.Poll)
	defer tick.Stop()
	var last error
	for {
		yes, err := ask()
		if yes && err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(context.Cause(ctx), last))
		case <-tick.C:
		}
	}
}
