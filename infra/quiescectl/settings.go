package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"quiesce/internal/config"
	"quiesce/internal/kube"
	"quiesce/internal/wire"
)

// defaultSettings has the groups that a file must name. Nobody asks for them without a file.
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
	settings, err := wire.LoadSDK(ctx, awsconfig.WithRegion(cmp.Or(o.region, region)), awsconfig.WithSharedConfigProfile(o.profile))
	if err != nil {
		return settings, advisedError{err, "check --profile and ~/.aws/config"}
	}
	return settings, usable(ctx, settings)
}

// usable returns an error unless requests to AWS can be signed.
func usable(ctx context.Context, settings aws.Config) error {
	if settings.Region == "" {
		return advisedError{errors.New("the AWS region is not known"), "name it with --region"}
	}
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	_, err := settings.Credentials.Retrieve(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("none came within %v", credentialsTimeout)
	}
	return advisedError{fmt.Errorf("there are no usable AWS credentials: %s", oneLine(err)), logIn}
}
