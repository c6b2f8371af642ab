package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// connectTimeout is for one host: a failover's old primary may not answer at all, and the others want their turn.
	connectTimeout = 5 * time.Second
	// retryInterval is the time between two looks for a primary. Failovers take seconds.
	retryInterval = time.Second
	// lockTimeout bounds each wait for a lock: a long transaction must not let others queue behind this program for longer.
	lockTimeout = 10 * time.Second
	// statementTimeout bounds each statement. REASSIGN OWNED of many tables takes seconds.
	statementTimeout = 2 * time.Minute
	closeTimeout     = 5 * time.Second
	// advisoryLock is the number of the lock that one run holds: "quiesce" in ASCII.
	advisoryLock = 0x71756965736365
	notAvailable = "55P03" // lock_not_available (https://www.postgresql.org/docs/17/errcodes-appendix.html)
)

// target is how to reach the server: the variables of the documents, with what libpq's variables say besides.
type target struct {
	hosts, port        string
	user, password     string
	database           string
	sslMode, sslRootCA string
}

// config returns the settings of one connection. TLS settings that are not given are libpq's variables, and those of the file of
// certificates are enough to verify.
func (t target) config(database string) (*pgx.ConnConfig, error) {
	settings := []string{"target_session_attrs=primary", fmt.Sprintf("connect_timeout=%d", int(connectTimeout.Seconds()))}
	add := func(name, value string) {
		if value != "" {
			settings = append(settings, name+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value)+"'")
		}
	}
	add("host", t.hosts)
	add("port", t.port)
	add("sslmode", t.sslMode)
	add("sslrootcert", t.sslRootCA)
	add("dbname", database)
	add("user", t.user)
	if t.sslMode != "verify-full" && t.sslMode != "verify-ca" {
		add("require_auth", "!password") // whoever answers must not be told the password
	}
	config, err := pgx.ParseConfig(strings.Join(settings, " "))
	if err != nil {
		return nil, fmt.Errorf("read the connection's settings: %w", err)
	}
	if t.password != "" {
		config.Password = t.password
	}
	config.ValidateConnect = requirePrimary
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	for name, value := range map[string]string{
		"application_name": "quiesce roles", "search_path": "pg_catalog", "lock_timeout": milliseconds(lockTimeout),
		"statement_timeout": milliseconds(statementTimeout), "standard_conforming_strings": "on", "client_encoding": "UTF8",
	} {
		config.RuntimeParams[name] = value
	}
	return config, nil
}

// errNotPrimary is the error of a server that let us in, and is in recovery.
var errNotPrimary = errors.New("not a primary")

// requirePrimary is what pgx does for target_session_attrs=primary, with an error that can be told from others.
func requirePrimary(ctx context.Context, conn *pgconn.PgConn) error {
	if err := pgconn.ValidateConnectTargetSessionAttrsPrimary(ctx, conn); err != nil {
		return fmt.Errorf("%w: %w", errNotPrimary, err)
	}
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// awaitPrimary logs in to the one host that is not in recovery. It waits for one until ctx ends, and tells progress what it waits for.
func awaitPrimary(ctx context.Context, t target, progress io.Writer) (*pgx.Conn, error) {
	config, err := t.config(t.database)
	if err != nil {
		return nil, err
	}
	for said := ""; ; {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			return conn, nil
		}
		if isRefused(err) {
			return nil, fmt.Errorf("log in: check POSTGRES_USERNAME and POSTGRES_PASSWORD: %w", err)
		}
		if now := bounded(err.Error()); now != said && ctx.Err() == nil {
			said = now
			fmt.Fprintln(progress, "roles: waiting for a primary:", said)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("find a primary in time: check POSTGRES_HOSTNAME, or give it longer with -wait: %w", err)
		case <-time.After(retryInterval):
		}
	}
}

// isRefused reports whether the servers refuse the login, such as for its password: they will do so again. The classes are those of errors
// about authorization and names of databases (28, 3D). A standby that let us in with TLS, and refuses to talk without it, does not refuse
// the login.
func isRefused(err error) (refused bool) {
	for _, one := range flatten(err) {
		if one == errNotPrimary {
			return false
		}
		answer, is := errors.AsType[*pgconn.PgError](one)
		refused = refused || is && (strings.HasPrefix(answer.Code, "28") || strings.HasPrefix(answer.Code, "3D"))
	}
	return refused
}

// flatten returns the errors that were joined: errors.As finds only the first of a kind.
func flatten(err error) []error {
	switch joined := err.(type) {
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range joined.Unwrap() {
			all = append(all, flatten(one)...)
		}
		return all
	case interface{ Unwrap() error }:
		if inner := joined.Unwrap(); inner != nil {
			return append([]error{err}, flatten(inner)...)
		}
	}
	return []error{err}
}

// identity is which run of which server a connection leads to. Databases may have time zones of their own, so the time is a number.
const identity = "SELECT system_identifier::text || ' ' || extract(epoch from pg_postmaster_start_time())::text FROM pg_control_system()"

// session is the login that holds the lock, and others to further databases of the same server.
type session struct {
	*pgx.Conn
	target
	server string // identity
	others map[string]*pgx.Conn
}

// open finds the primary and takes the lock, so that two runs do not work at the same time.
func open(ctx context.Context, t target, wait time.Duration, progress io.Writer) (*session, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	conn, err := awaitPrimary(waiting, t, progress)
	if err != nil {
		return nil, err
	}
	s := &session{Conn: conn, target: t, others: map[string]*pgx.Conn{}}
	s.target.database = conn.Config().Database
	if err := s.prepare(waiting); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) prepare(ctx context.Context) error {
	superuser := false
	if err := s.QueryRow(ctx, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&superuser); err != nil {
		return fmt.Errorf("look at the login: %w", err)
	}
	if !superuser {
		return fmt.Errorf("user %s is no superuser, and only one can compare passwords and drop what is owned: log in as another user",
			s.Config().User)
	}
	if err := s.QueryRow(ctx, identity).Scan(&s.server); err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	for {
		_, err := s.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(advisoryLock))
		refused, is := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
			return nil
		case !is || refused.Code != notAvailable:
			return fmt.Errorf("wait for another run to end: %w", err)
		}
	}
}

// in returns a connection to a database of the same server; an empty name is the login's own.
func (s *session) in(ctx context.Context, database string) (*pgx.Conn, error) {
	if database == "" || database == s.target.database {
		return s.Conn, nil
	}
	if conn := s.others[database]; conn != nil {
		return conn, nil
	}
	config, err := s.config(database)
	if err != nil {
		return nil, err
	}
	config.DialFunc = dialOnly(s.PgConn().Conn().RemoteAddr().String())
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("log in to database %s: %w", database, err)
	}
	s.others[database] = conn
	server := ""
	if err := conn.QueryRow(ctx, identity).Scan(&server); err != nil || server != s.server {
		return nil, errors.Join(errors.New("the primary has changed: run this again"), err)
	}
	return conn, nil
}

// dialOnly refuses all addresses but one: further connections lead where the first one does.
func dialOnly(address string) pgconn.DialFunc {
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		if to != address {
			return nil, fmt.Errorf("%s is not the primary, which is %s", to, address)
		}
		return (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, network, to)
	}
}

// close ends all connections, and so the lock.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for _, conn := range s.others {
		_ = conn.Close(ctx)
	}
	_ = s.Close(ctx)
}

// targetFrom reads the variables.
func targetFrom(getenv func(string) string) target {
	t := target{
		hosts: getenv("POSTGRES_HOSTNAME"), port: getenv("POSTGRES_PORT"), database: getenv("POSTGRES_DATABASE"),
		user: getenv("POSTGRES_USERNAME"), password: getenv("POSTGRES_PASSWORD"),
		sslMode: getenv("PGSSLMODE"), sslRootCA: getenv("PGSSLROOTCERT"),
	}
	if strings.HasPrefix(t.port, "tcp://") { // Kubernetes tells pods about a Service that is called postgres
		t.port = ""
	}
	or := func(value *string, names ...string) {
		for _, name := range names {
			if *value == "" {
				*value = getenv(name)
			}
		}
	}
	or(&t.hosts, "PGHOST")
	or(&t.port, "PGPORT")
	or(&t.database, "PGDATABASE")
	or(&t.user, "PGUSER")
	or(&t.password, "PGPASSWORD")
	t.defaults()
	return t
}

// defaults are those of the documents. A file of certificates is there to verify with.
func (t *target) defaults() {
	if t.hosts == "" {
		t.hosts = "localhost"
	}
	if t.database == "" {
		t.database = "postgres"
	}
	if t.user == "" {
		t.user = "postgres"
	}
	if t.sslMode == "" {
		t.sslMode = "prefer"
		if t.sslRootCA != "" {
			t.sslMode = "verify-full"
		}
	}
}
