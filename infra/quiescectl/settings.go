package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"

	"quiesce/internal/config"
	"quiesce/internal/kube"
	"quiesce/internal/wire"
)

// defaultSettings has the groups that a file must name. They are not needed without a file.
const defaultSettings = "{cluster: unknown, autoScalingGroups: [unknown], mode: shadow}"

// readSettings reads the configuration of quiesce; without a path they are the defaults, and the cluster has no name.
func readSettings(path string) (settings config.Config, err error) {
	if path == "" {
		settings, err = parseSettings(defaultSettings)
		settings.Cluster = ""
		return settings, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return settings, fmt.Errorf("--config: %w", err)
	}
	if settings, err = parseSettings(string(text)); err != nil {
		return settings, fmt.Errorf("--config %s:\n%w", path, err)
	}
	return settings, nil
}

func parseSettings(text string) (config.Config, error) {
	return config.Parse([]byte(text), func(string) string { return "" })
}

var vias = []string{string(config.ViaPortForward), string(config.ViaPodIP)}

// reachConsoles has every console reached in this way: a laptop has no route to pods, whatever the function has.
func reachConsoles(settings config.Config, via string) error {
	if !slices.Contains(vias, via) {
		return fmt.Errorf("--connect-via must be one of %s, not %q", strings.Join(vias, ", "), via)
	}
	for i := range settings.Phases {
		if console := settings.Phases[i].EscortConsole(); console != nil {
			console.ConnectVia = config.ConnectVia(via)
		}
	}
	return nil
}

// kube returns a client of the cluster.
func (o *options) kube() (*kube.Client, error) {
	access, _, err := o.connect()
	if err != nil {
		return nil, err
	}
	client, err := kube.New(access)
	if err != nil {
		return nil, fmt.Errorf("make a client of the cluster: %w", err)
	}
	return client, nil
}

func connector(client *kube.Client) wire.Connector {
	return func(context.Context) (*kube.Client, error) { return client, nil }
}

// account returns the settings of the person's AWS account. The region of the flag wins, then this one, then that of the environment.
func (o *options) account(ctx context.Context, region string) (aws.Config, error) {
	return o.loadAWS(ctx, wire.LoadSDK, awsconfig.WithRegion(cmp.Or(o.region, region)))
}

// sdkLoader is a way to load AWS settings.
type sdkLoader func(context.Context, ...func(*awsconfig.LoadOptions) error) (aws.Config, error)

// loadAWS returns the person's AWS settings, if requests can be signed with them. All parts of a command share the credentials: a profile may
// need the code of an MFA device, which is good for one use.
func (o *options) loadAWS(ctx context.Context, load sdkLoader, more ...func(*awsconfig.LoadOptions) error) (aws.Config, error) {
	settings, err := load(ctx, append(more, awsconfig.WithSharedConfigProfile(o.profile), awsconfig.WithCredentialsProvider(o.credentials),
		awsconfig.WithAssumeRoleCredentialOptions(func(role *stscreds.AssumeRoleOptions) { role.TokenProvider = o.askCode }))...)
	switch {
	case errors.As(err, new(awsconfig.AssumeRoleTokenProviderNotSetError)):
		return settings, advisedError{errors.New("the AWS profile needs the code of an MFA device"), "run it in a terminal, which asks for the code"}
	case err != nil:
		return settings, advisedError{err, "check --profile and ~/.aws/config"}
	}
	if err := usable(ctx, settings); err != nil {
		return settings, err
	}
	o.credentials = settings.Credentials
	return settings, nil
}

// codeAsker returns a function that asks a person for the code of an MFA device; nil: no person is there to ask.
func codeAsker(in, prompt *os.File) func() (string, error) {
	if !isTerminal(in) || !isTerminal(prompt) {
		return nil
	}
	return func() (code string, err error) {
		fmt.Fprint(prompt, "Code of the MFA device: ")
		if _, err = fmt.Fscanln(in, &code); err != nil {
			return "", fmt.Errorf("read the code of the MFA device: %w", err)
		}
		return code, nil
	}
}

const (
	// metadataTimeout bounds the search for credentials that ends at the metadata service, which may not exist. It answers at once where it
	// does. Longer would let everybody without credentials wait.
	metadataTimeout = 3 * time.Second
	// credentialsTimeout bounds the other ways. A person looks at an MFA device, or a helper program opens a browser. Longer would let a helper
	// that hangs look like work.
	credentialsTimeout = 2 * time.Minute
)

// usable returns an error unless requests to AWS can be signed.
func usable(ctx context.Context, settings aws.Config) error {
	if settings.Region == "" {
		return advisedError{errors.New("the AWS region is not known"), "name it with --region"}
	}
	timeout := credentialsTimeout
	if aws.IsCredentialsProvider(settings.Credentials, (*ec2rolecreds.Provider)(nil)) {
		timeout = metadataTimeout
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := settings.Credentials.Retrieve(bounded)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = errors.New("none came before the time of the command was over")
	case errors.Is(bounded.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("none came within %v", timeout)
	}
	return advisedError{fmt.Errorf("there are no usable AWS credentials: %s", oneLine(err)), logIn}
}
