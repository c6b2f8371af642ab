package main

import (
	"context"
	"iter"
	"log/slog"
	"net"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/pgbouncer"
	"quiesce/internal/secrets"
)

// escorts makes the escorts of phases. Only here does the domain's escort become pgbouncer's.
type escorts struct {
	connect func(context.Context) (*kube.Client, error)
	sdk     aws.Config
	log     *slog.Logger
}

func (e escorts) of(phase config.Phase) drain.Escort {
	settings := phase.PGBouncer
	return &pgbouncer.Escort{
		Settings: pgbouncer.Settings{
			Strategy: pgbouncer.Strategy(settings.Strategy), Timeout: settings.Timeout, Patience: phase.Timeout,
			Port: settings.Port, Forward: settings.Via == config.ViaPortForward, TLS: pgbouncer.TLSMode(settings.TLS),
			ServerName: settings.ServerName, RootCAs: settings.RootCAs,
		},
		Connect: func(ctx context.Context) (pgbouncer.Kubernetes, error) {
			client, err := e.connect(ctx)
			return pooling{client}, err
		},
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
		Logins: e.logins(phase),
		Log:    e.log,
	}
}

// logins are the console's, for the poolers of the namespaces that they are bound to and for nobody else's.
func (e escorts) logins(phase config.Phase) func(context.Context, string) iter.Seq2[pgbouncer.Login, error] {
	source := e.source(phase)
	return func(ctx context.Context, namespace string) iter.Seq2[pgbouncer.Login, error] {
		return func(yield func(pgbouncer.Login, error) bool) {
			for login, err := range source(namespace)(ctx) {
				if !yield(pgbouncer.Login(login), err) {
					return
				}
			}
		}
	}
}

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
		return func(context.Context) iter.Seq2[secrets.Login, error] { return func(func(secrets.Login, error) bool) {} }
	}
}

func (e escorts) secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	client, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	return client.Secret(ctx, namespace, name)
}

// isPooler: an annotation decides; else the phase's own match; and where that has no labels, what is known of charts and
// operators. A pod that an escort took labels off is matched by those it had.
func isPooler(phase config.Phase) func(drain.Pod) bool {
	return func(p drain.Pod) bool {
		was, annotated := pgbouncer.Labels(p), p.Annotations[pgbouncer.Annotation]
		known := phase.Match.Selector != nil && annotated == "" || pgbouncer.Recognise(was, p.Annotations)
		if annotated == pgbouncer.Annotated {
			return len(phase.Match.Namespaces) == 0 || phase.Match.Namespaces.Match(p.Namespace)
		}
		return known && (phase.Match.Empty() || phase.Match.Matches(p.Namespace, p.PriorityClass, was))
	}
}
