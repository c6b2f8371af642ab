package config

import (
	"errors"
	"regexp"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

func (p *Phase) readEscort(m *mapping, n network) {
	pgbouncer, postgres := m.get("pgbouncer"), m.get("postgres")
	switch {
	case m.has("pgbouncer") == m.has("postgres"):
		m.errorf("must be {pgbouncer: ...} or {postgres: ...}")
	case m.has("pgbouncer"):
		p.PGBouncer = defaultPGBouncer()
		pgbouncer.section(func(m *mapping) { p.PGBouncer.read(m, n) })
	default:
		p.Postgres = defaultPostgres()
		postgres.section(func(m *mapping) { p.Postgres.read(m, n) })
	}
}

// EscortConsole returns the settings of the escort's connections to consoles; nil: the phase has no escort.
func (p *Phase) EscortConsole() *Console {
	switch {
	case p.PGBouncer != nil:
		return &p.PGBouncer.Console
	case p.Postgres != nil:
		return &p.Postgres.Console
	default:
		return nil
	}
}

// secretARN is the form of a secret's ARN: https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html. It becomes
// a resource of a policy, so it has no wildcard, and ends with the six characters that Secrets Manager adds to each name. Other services
// mark the names of their secrets with an exclamation mark, such as rds!cluster-...
var secretARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:\d{12}:secret:[A-Za-z0-9/_+=.@!-]{1,512}-[A-Za-z0-9]{6}$`)
})

func (b *PGBouncer) read(m *mapping, n network) {
	choose(m.get("strategy"), &b.Strategy, StrategyAuto, StrategyEvict, StrategySurge)
	m.get("timeout").positiveDuration(&b.Timeout)
	b.Console.read(m, n)
}

// maxPauseTimeout leaves the clients 30 s before pgbouncer's default query_wait_timeout of 120 s fails them
// (https://www.pgbouncer.org/config.html#query_wait_timeout).
const maxPauseTimeout = 90 * time.Second

func (p *Postgres) read(m *mapping, n network) {
	choose(m.get("strategy"), &p.Strategy, StrategySwitchover, StrategyOperator, StrategyPlain)
	p.readMaxLag(m.get("maxLag"))
	pause := m.get("pauseTimeout")
	if pause.positiveDuration(&p.PauseTimeout); p.PauseTimeout > maxPauseTimeout {
		pause.errorf("must not be longer than %.0fs: clients wait no longer than pgbouncer's query_wait_timeout", maxPauseTimeout.Seconds())
	}
	choose(m.get("poolers"), &p.Poolers, PoolersAuto, PoolersNone)
	m.get("scopeLabel").form(&p.ScopeLabel, "the key of a label", labelKey)
	p.Console.read(m, n)
	for _, key := range []string{"port", "tls", "serverName", "caBundle"} {
		if v := m.get(key); v.isSet() && !p.HasLogin() {
			v.errorf("needs secretRef or secretArn: without a login of its own, this escort has the console's settings of the first pgbouncer phase")
		}
	}
	p.readRESTSecret(m.get("restSecretRef"), n)
}

// readRESTSecret reads where the password for Patroni's HTTP interface is. The API server's proxy would not pass one on.
func (p *Postgres) readRESTSecret(v value, n network) {
	if v.section(func(m *mapping) { p.RESTSecret = readSecretRef(m) }); !v.isSet() {
		return
	}
	if p.ConnectVia == ViaPortForward || p.ConnectVia == "" && !n.vpc {
		v.errorf("needs connectVia: podIP. Without it, quiesce asks Patroni through the Kubernetes API, which needs no password")
	}
}

// readMaxLag reads a number of bytes, as Kubernetes writes it.
func (p *Postgres) readMaxLag(v value) {
	const wanted = "a number of bytes such as 16Mi"
	text, ok := v.scalar(wanted, "!!str", "!!int")
	if !ok {
		return
	}
	lag, err := resource.ParseQuantity(text)
	if err != nil || lag.Sign() <= 0 || lag.CmpInt64(maxMaxLag) > 0 {
		v.errorf("must be %s, at most 1Gi: %s", wanted, text)
		return
	}
	p.MaxLag = lag.Value()
}

// maxMaxLag is more than a replica makes up for while clients wait.
const maxMaxLag = 1 << 30

func (b *Console) read(m *mapping, n network) {
	via := m.get("connectVia")
	choose(via, &b.ConnectVia, ViaPodIP, ViaPortForward)
	if b.ConnectVia == ViaPodIP && n.stack && !n.vpc {
		via.errorf("podIP needs stack.vpc: without it, the function has no route to pods. Add stack.vpc, or use portForward")
	}
	m.get("port").number(&b.Port, 1, 65535)
	b.readTLS(m)
	ref, arn := m.get("secretRef"), m.get("secretArn")
	if ref.section(func(m *mapping) { b.Secret = readSecretRef(m) }); ref.isSet() && arn.isSet() {
		arn.errorf("not allowed with secretRef: the credentials are in one place")
	}
	arn.checked(func(text string) error {
		if !secretARN().MatchString(text) {
			return errors.New("not the whole ARN of a secret, with the six characters at its end: " + text)
		}
		b.SecretARN = text
		return nil
	})
}

// readTLS reads how TLS is verified. It rejects those settings where nothing would be verified.
func (b *Console) readTLS(m *mapping) {
	tls := m.get("tls")
	choose(tls, &b.TLS, TLSDisable, TLSPrefer, TLSRequire, TLSVerifyFull)
	name, bundle := m.get("serverName"), m.get("caBundle")
	if b.TLS == TLSVerifyFull {
		name, bundle = name.required(), bundle.required()
	} else if name.isSet() || bundle.isSet() {
		tls.errorf("must be verify-full with serverName or caBundle: %s verifies nothing", b.TLS)
	}
	name.form(&b.ServerName, "a host name", hostName)
	bundle.checked(func(pem string) (err error) {
		b.RootCAs, err = readCertificates([]byte(pem))
		return err
	})
}

// readSecretRef reads the names of a Secret and its keys. The default keys are those of the type kubernetes.io/basic-auth:
// https://kubernetes.io/docs/concepts/configuration/secret/#basic-authentication-secret.
func readSecretRef(m *mapping) *SecretRef {
	ref := &SecretRef{UserKey: "username", PasswordKey: "password"}
	m.get("namespace").required().form(&ref.Namespace, "a namespace", namespaceName)
	m.get("name").required().form(&ref.Name, "a Secret name", objectName)
	m.get("userKey").form(&ref.UserKey, "a key of a Secret", secretKey)
	m.get("passwordKey").form(&ref.PasswordKey, "a key of a Secret", secretKey)
	return ref
}
