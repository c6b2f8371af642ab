package main

import (
	"context"
	"iter"
	"net"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
	"quiesce/internal/secrets"
)

// escorts makes the escorts of phases. Only here does the domain's escort become pgbouncer's.
type escorts struct {
	connect func(context.Context) (*kube.Client, error)
	sdk     aws.Config
}

func (e escorts) of(phase config.Phase) drain.Escort {
	source := e.source(phase)
	return &pooler.Escort{
		Settings: pooler.Settings{PGBouncer: *phase.PGBouncer, Patience: phase.Timeout},
		Connect:  func(ctx context.Context) (pooler.Kubernetes, error) { return e.connect(ctx) },
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
		Logins: func(ctx context.Context, namespace string) iter.Seq2[escort.Login, error] {
			return source(namespace)(ctx)
		},
	}
}

// source returns where the logins for the console are: of the poolers of the namespaces that they are bound to, and no others.
func (e escorts) source(phase config.Phase) func(namespace string) secrets.Source {
	switch settings := phase.PGBouncer; {
	case settings.Secret != nil:
		ref := secrets.Ref(*settings.Secret)
		return secrets.Bound(secrets.FromKubernetes(e.secret, ref), ref.Namespace)
	case settings.SecretARN != "":
		client := secretsmanager.NewFromConfig(e.sdk)
		return secrets.Bound(secrets.FromSecretsManager(client, settings.SecretARN, secrets.RDSKeys), phase.Match.Namespaces...)
	}
	return func(string) secrets.Source {
		return func(context.Context) iter.Seq2[escort.Login, error] { return func(func(escort.Login, error) bool) {} }
	}
}

func (e escorts) secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	client, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	return client.Secret(ctx, namespace, name)
}
