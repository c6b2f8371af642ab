package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quiesce/internal/pgbouncer"
)

const (
	defaultPort = "6432" // of pgbouncer
	// defaultTransactions is how long PostgreSQL waits for open transactions. Most take milliseconds, and a member that stops renews its
	// key late: with Patroni's default ttl of 30 s there is no room for much more.
	defaultTransactions = 5 * time.Second
	maxTransactions     = 15 * time.Second
	// defaultResumeAfter is how long clients wait at most: several times what a switchover or a restart takes, and a quarter of pgbouncer's
	// query_wait_timeout.
	defaultResumeAfter = 30 * time.Second
	// maxResumeAfter is more than a switchover takes, and less than clients wait by default: pgbouncer's query_wait_timeout is two minutes.
	maxResumeAfter = time.Minute
	maxPoolers     = 100 // as of a move by quiesce
	// userVariable and passwordVariable are the credentials if there is no folder with them.
	userVariable, passwordVariable = "QUIESCE_POOLER_USERNAME", "QUIESCE_POOLER_PASSWORD"
)

// options are the settings of a callback.
type options struct {
	poolers      string
	databases    string
	alias        string
	credentials  string
	tls          string
	serverName   string
	ca           string
	transactions time.Duration
	resumeAfter  time.Duration
	patroni      string
	data         string
}

// readOptions reads the flags, and returns the arguments after them.
func readOptions(args []string) (o options, rest []string, err error) {
	set := flag.NewFlagSet("patronicallback", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&o.poolers, "poolers", "", "names or addresses of all poolers, host or host:port, separated by commas")
	set.StringVar(&o.databases, "databases", "", "the poolers' databases that lead to this cluster, separated by commas")
	set.StringVar(&o.alias, "alias", "quiesce", "a second entry of a pooler for the same server, which is never paused")
	set.StringVar(&o.credentials, "credentials", "", "folder with the files username and password")
	set.StringVar(&o.tls, "tls", string(pgbouncer.TLSPrefer), "disable, prefer, require or verify-full")
	set.StringVar(&o.serverName, "server-name", "", "name in the poolers' certificate")
	set.StringVar(&o.ca, "ca", "", "file with the certificates that may have signed it")
	set.DurationVar(&o.transactions, "transactions", defaultTransactions, "how long PostgreSQL waits for open transactions")
	set.DurationVar(&o.resumeAfter, "resume-after", defaultResumeAfter, "how long clients wait at most")
	set.StringVar(&o.patroni, "patroni", "http://127.0.0.1:8008", "Patroni's REST API in this pod")
	set.StringVar(&o.data, "data", "", "PostgreSQL's data directory; by default that of the running PostgreSQL")
	if err := set.Parse(args); err != nil {
		return o, nil, err
	}
	return o, set.Args(), o.check()
}

func (o options) check() error {
	switch address, err := url.Parse(o.patroni); {
	case len(list(o.poolers)) == 0 || len(list(o.databases)) == 0:
		return errors.New("the flags -poolers and -databases are required")
	case slices.Contains(list(o.databases), o.alias):
		return fmt.Errorf("database %s is the alias, which is never paused", o.alias)
	case o.transactions < 0 || o.transactions > maxTransactions:
		return fmt.Errorf("-transactions must be from 0 to %v: the leader's key is renewed late meanwhile", maxTransactions)
	case o.resumeAfter < o.transactions+time.Second || o.resumeAfter > maxResumeAfter:
		return errors.New("-resume-after must be longer than -transactions, and at most a minute")
	case err != nil || !isLoopback(address.Hostname()):
		return errors.New("-patroni must be an address of this pod, such as http://127.0.0.1:8008")
	}
	return nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// target returns how to log in to the poolers, without an address. Its errors have no credentials.
func (o options) target() (t pgbouncer.Target, err error) {
	t = pgbouncer.Target{
		User: os.Getenv(userVariable), Password: os.Getenv(passwordVariable), TLS: pgbouncer.TLSMode(o.tls), ServerName: o.serverName,
	}
	if o.credentials != "" {
		user, userErr := os.ReadFile(filepath.Join(o.credentials, "username"))
		password, passwordErr := os.ReadFile(filepath.Join(o.credentials, "password"))
		if err := errors.Join(userErr, passwordErr); err != nil {
			return t, fmt.Errorf("read the credentials: %w", err)
		}
		t.User, t.Password = strings.TrimRight(string(user), "\r\n"), strings.TrimRight(string(password), "\r\n")
	}
	if t.User == "" {
		return t, fmt.Errorf("no credentials: set -credentials, or %s and %s", userVariable, passwordVariable)
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return t, fmt.Errorf("read the certificates: %w", err)
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(pem) {
			return t, fmt.Errorf("file %s has no certificates", o.ca)
		}
	}
	return t, nil
}

// addresses returns the address and port of each pooler. A name may have several, as a headless Service does. What can be resolved is
// returned beside the error.
func (o options) addresses(ctx context.Context) (found []string, err error) {
	var errs []error
	for _, name := range list(o.poolers) {
		host, port, splitErr := net.SplitHostPort(name)
		if splitErr != nil {
			host, port = name, defaultPort
		}
		hosts, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			errs = append(errs, fmt.Errorf("find the poolers: %w", err))
		}
		for _, h := range hosts {
			found = append(found, net.JoinHostPort(h, port))
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if len(found) > maxPoolers {
		return nil, fmt.Errorf("find the poolers: there are %d, and at most %d can be paused", len(found), maxPoolers)
	}
	return found, errors.Join(errs...)
}
