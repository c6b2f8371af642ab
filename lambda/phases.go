package main

import (
	"context"
	"net"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
	"quiesce/internal/secrets"
)

// connector connects to the cluster.
type connector func(context.Context) (*kube.Client, error)

// secret implements secrets.Getter.
func (c connector) secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	client, err := c(ctx)
	if err != nil {
		return nil, err
	}
	return client.Secret(ctx, namespace, name)
}

// phases returns the drain's phases. The phase workloads has no match: it takes the pods that no other phase matches.
func phases(settings config.Config, connect connector, sdk aws.Config) []drain.Phase {
	all := make([]drain.Phase, len(settings.Phases))
	for i, phase := range settings.Phases {
		all[i] = drain.Phase{Name: phase.Name, Settle: phase.Settle, Timeout: phase.Timeout}
		switch {
		case phase.PGBouncer != nil:
			all[i].Match, all[i].Escort, all[i].Lead = pooler.Match(phase), poolerEscort(phase, connect, sdk), phase.PGBouncer.Timeout
		case phase.Name != config.Workloads:
			all[i].Match = func(p drain.Pod) bool { return phase.Match.Matches(p.Namespace, p.PriorityClass, p.Labels) }
		}
	}
	return all
}

func poolerEscort(phase config.Phase, connect connector, sdk aws.Config) *pooler.Escort {
	return &pooler.Escort{
		Settings: pooler.Settings{PGBouncer: *phase.PGBouncer, PhaseTimeout: phase.Timeout},
		Connect:  func(ctx context.Context) (pooler.Kubernetes, error) { return connect(ctx) },
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
		Logins: consoleLogins(phase, connect, sdk),
	}
}

// consoleLogins returns the logins for the consoles of a phase. A Secret's login is only for poolers of its own namespace, and one of
// Secrets Manager only for the namespaces that the phase names.
func consoleLogins(phase config.Phase, connect connector, sdk aws.Config) secrets.Logins {
	switch settings := phase.PGBouncer; {
	case settings.Secret != nil:
		ref := settings.Secret
		keys := secrets.Keys{User: ref.UserKey, Password: ref.PasswordKey}
		return secrets.Bound(secrets.FromKubernetes(connect.secret, ref.Namespace, ref.Name, keys), ref.Namespace)
	case settings.SecretARN != "":
		client := secretsmanager.NewFromConfig(sdk)
		return secrets.Bound(secrets.FromSecretsManager(client, settings.SecretARN, secrets.RDSKeys), phase.Match.Namespaces...)
	default:
		return secrets.None
	}
}
