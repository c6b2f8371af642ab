package wire

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/pooler"
	"quiesce/internal/postgres"
	"quiesce/internal/secrets"
	"quiesce/internal/termination"
)

// Connector connects to the cluster.
type Connector func(context.Context) (*kube.Client, error)

// secret implements secrets.Getter.
func (c Connector) secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	client, err := c(ctx)
	if err != nil {
		return nil, err
	}
	return client.Secret(ctx, namespace, name)
}

// Phases returns the drain's phases. The phase workloads has no match: it takes the pods that no other phase matches.
func (p Parts) Phases() []drain.Phase {
	all := make([]drain.Phase, len(p.Settings.Phases))
	for i, phase := range p.Settings.Phases {
		all[i] = drain.Phase{Name: phase.Name, Settle: phase.Settle, Timeout: phase.Timeout}
		switch {
		case phase.PGBouncer != nil:
			all[i].Match, all[i].Escort, all[i].Lead = pooler.Match(phase), p.poolerEscort(phase), phase.PGBouncer.Timeout
		case phase.Postgres != nil:
			all[i].Match, all[i].Escort, all[i].Lead = postgres.Match(phase), p.postgresEscort(phase), postgres.Lead(*phase.Postgres)
			all[i].Keeps = phase.Postgres.Strategy != config.StrategyPlain
			if all[i].Keeps {
				all[i].MatchLabels = postgres.MatchLabels(phase)
				all[i].DelaysCordon = postgres.DelaysCordon(phase)
			}
		case phase.Name != config.Workloads:
			all[i].Match = func(pod drain.Pod) bool { return phase.Match.Matches(pod.Namespace, pod.PriorityClass, pod.Labels) }
		}
	}
	return all
}

func (p Parts) poolerEscort(phase config.Phase) *pooler.Escort {
	return &pooler.Escort{
		Settings: pooler.Settings{PGBouncer: *phase.PGBouncer, PhaseTimeout: phase.Timeout},
		Connect:  func(ctx context.Context) (pooler.Kubernetes, error) { return p.Connect(ctx) },
		Dial:     dial,
		Logins:   p.consoleLogins(phase.PGBouncer.Console),
	}
}

// dial connects to the address of a pod.
func dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// Forward implements escort.Forwarder.
func (c Connector) Forward(ctx context.Context, namespace, name string, port int) (net.Conn, error) {
	client, err := c(ctx)
	if err != nil {
		return nil, err
	}
	return client.Forward(ctx, namespace, name, port)
}

func (p Parts) postgresEscort(phase config.Phase) *postgres.Escort {
	settings := postgres.Settings{Postgres: *phase.Postgres, PhaseTimeout: phase.Timeout}
	consoles := escort.Consoles{
		Dial: dial, Logins: p.consoleLogins(settings.Console), ServerName: settings.ServerName, RootCAs: settings.RootCAs,
		Port: func(pod escort.Pod) int { return pooler.ConsolePort(settings.Port, pod) },
	}
	e := &postgres.Escort{
		Settings: settings,
		Connect:  func(ctx context.Context) (postgres.Cluster, error) { return p.Connect(ctx) },
		Match:    postgres.Match(phase),
		IsPooler: isPooler(p.Settings), PoolerNamespaces: p.Settings.PoolerNamespaces(),
	}
	observer := postgres.Observer{Settings: settings}
	if settings.ConnectVia == config.ViaPortForward {
		consoles.Forwarder = p.Connect
	} else {
		observer.Get, e.Asker = postgres.Direct(dial), postgres.REST{Dial: dial, Logins: restLogins(settings.RESTSecret, p.Connect)}
	}
	e.Consoles = postgres.NewConsoles(consoles, settings.TLS)
	e.Clusters = func(c postgres.Cluster) postgres.Clusters {
		observing := observer
		observing.Cluster = c
		return &observing
	}
	return e
}

// isPooler returns which pods count as poolers: those of the phases with that escort, those with known labels, and those that an escort has
// changed. A surge takes a label away from a pooler that serves its clients still.
func isPooler(settings config.Config) func(drain.Pod) bool {
	matches := []func(drain.Pod) bool{
		func(p drain.Pod) bool { return pooler.Recognize(p.Labels, p.Annotations) },
		func(p drain.Pod) bool { return p.Labels[drain.EscortLabel] != "" },
	}
	for _, phase := range settings.Phases {
		if phase.PGBouncer != nil {
			matches = append(matches, pooler.Match(phase))
		}
	}
	return func(p drain.Pod) bool {
		return slices.ContainsFunc(matches, func(match func(drain.Pod) bool) bool { return match(p) })
	}
}

// AddPrimaries has the handler move primaries by hand, and resume what interrupted moves left paused. A message in the queue does so too,
// if messages can be sent.
func AddPrimaries(handler *termination.Handler, resumeLater SendLater) {
	var all Primaries
	for _, phase := range handler.Drainer.Phases {
		e, is := phase.Escort.(*postgres.Escort)
		if !is {
			continue
		}
		e.Log = handler.Log
		if resumeLater != nil {
			e.Remind = func(ctx context.Context, after time.Duration) error { return resumeLater(ctx, resumeMessage, after) }
		}
		all = append(all, e)
	}
	if len(all) > 0 {
		handler.Primaries = all
	}
}

// Primaries are the escorts of all phases of databases.
type Primaries []*postgres.Escort

// Switchover implements termination.Primaries. The first phase that knows the cluster decides.
func (p Primaries) Switchover(ctx context.Context, s drain.Switchover) (result drain.EscortResult, err error) {
	for _, e := range p {
		if result, err = e.Switchover(ctx, s); !errors.Is(err, postgres.ErrUnknown) {
			break
		}
	}
	return result, err
}

// Resume implements termination.Primaries. A phase resumes every pooler that it has a login for, and the next one the rest. A phase without an
// error has found that every pooler was resumed at least once.
func (p Primaries) Resume(ctx context.Context) (clusters []string, err error) {
	var failures []error
	done := false
	for _, e := range p {
		resumed, left, err := e.Resume(ctx)
		clusters = append(clusters, resumed...)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if done = true; !left {
			break
		}
	}
	if done {
		return clusters, nil
	}
	return clusters, errors.Join(failures...)
}

// Paused implements termination.Primaries. Each phase sees the same Leases.
func (p Primaries) Paused(ctx context.Context) (clusters []string, err error) {
	return p[0].Paused(ctx)
}

// SendLater sends a message that is delivered after the delay.
type SendLater func(ctx context.Context, body string, delay time.Duration) error

// resumeMessage asks the function to resume poolers that an interrupted move left paused.
const resumeMessage = `{"action":"` + string(termination.ActionResume) + `"}`

// consoleLogins returns the logins for consoles. A Secret's login is only for poolers of its own namespace, and one of Secrets Manager
// only for the namespaces that the phase names.
func (p Parts) consoleLogins(settings config.Console) escort.Logins {
	switch {
	case p.Logins != nil:
		return p.Logins
	case settings.Secret != nil:
		return secretLogins(*settings.Secret, p.Connect)
	case settings.SecretARN != "":
		client := secretsmanager.NewFromConfig(p.SDK)
		return secrets.Bound(secrets.FromSecretsManager(client, settings.SecretARN, secrets.RDSKeys), settings.Namespaces...)
	default:
		return secrets.None
	}
}

// secretLogins returns the login in a Secret, for pods of its own namespace.
func secretLogins(ref config.SecretRef, connect Connector) escort.Logins {
	keys := secrets.Keys{User: ref.UserKey, Password: ref.PasswordKey}
	return secrets.Bound(secrets.FromKubernetes(connect.secret, ref.Namespace, ref.Name, keys), ref.Namespace)
}

// restLogins returns the logins for Patroni's HTTP interface; nil: none is configured.
func restLogins(ref *config.SecretRef, connect Connector) escort.Logins {
	if ref == nil {
		return nil
	}
	return secretLogins(*ref, connect)
}
