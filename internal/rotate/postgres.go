package rotate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"quiesce/internal/escort"
)

// sqlTimeout bounds a login to a server with its statements. ALTER ROLE waits for nothing but another ALTER ROLE.
const sqlTimeout = 10 * time.Second

// RolesMark is the comment of roles that the program roles makes.
const RolesMark = "quiesce roles"

// Postgres is the Database.
type Postgres struct {
	Primary  *pgx.ConnConfig
	Standbys []*pgx.ConnConfig
	Group    string // the role that has the grants

	NotManaged     bool // no operator keeps the logins, whatever it looks like
	IgnoreStandbys bool // no client logs in to standbys that are not named
}

var _ Database = (*Postgres)(nil)

// in runs do in a session of the server.
func in(ctx context.Context, config *pgx.ConnConfig, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("server %s: %w", where(config), explain(err))
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := do(ctx, conn); err != nil {
		return fmt.Errorf("server %s: %w", where(config), explain(err))
	}
	return nil
}

func where(config *pgx.ConnConfig) string { return fmt.Sprintf("%s:%d", config.Host, config.Port) }

// explain bounds what a server says. pgx's error of a failed login has its settings; its text has no password.
func explain(err error) error {
	if answer, is := errors.AsType[*pgconn.PgError](err); is {
		return errors.New(escort.Printable(answer.Message + " (" + answer.Code + ")"))
	}
	return errors.New(escort.Printable(err.Error()))
}

// Connection reads a connection string, as libpq's; empty: its environment. Whoever answers must not be told the password, so without a
// verified certificate the server may not ask for it in clear text, unless require_auth says so.
func Connection(text string, primary bool) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, errors.New("the connection string cannot be read") // pgx's error may show a part of it
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams["application_name"] = "quiescectl rotate"
	config.RuntimeParams["search_path"] = "pg_catalog"
	config.RuntimeParams["standard_conforming_strings"] = "on"
	config.RuntimeParams["client_encoding"] = "UTF8" // the simple protocol needs it, and a database may have another
	if config.RequireAuth == "" && !isVerified(config) {
		config.RequireAuth = "!password"
	}
	if primary {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	return config, nil
}

// isVerified reports whether the certificate of every host is verified, in each way that is tried.
func isVerified(config *pgx.ConnConfig) bool {
	verifies := func(c *tls.Config) bool { // with sslmode=verify-full, or verify-ca
		return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil)
	}
	return verifies(config.TLSConfig) && !slices.ContainsFunc(config.Fallbacks, func(f *pgconn.FallbackConfig) bool { return !verifies(f.TLSConfig) })
}

// serverQuery returns whether a server is in recovery, when it was started, whether it receives a log, and how many standbys receive its own.
// The start tells servers apart, whatever their names are. A login without pg_read_all_stats sees no state, and then every receiver counts.
// PostgreSQL's own tools do not, by their exact names: a standby may have any other.
const serverQuery = `SELECT pg_is_in_recovery(), extract(epoch FROM pg_postmaster_start_time())::text, EXISTS (SELECT FROM pg_stat_wal_receiver),
 (SELECT count(*) FROM pg_stat_replication WHERE (state IS NULL OR state IN ('streaming', 'catchup'))
 AND application_name NOT IN ('pg_basebackup', 'pg_receivewal', 'pg_recvlogical'))`

// each runs do in a session of every server: the primary's is the first. It fails if a server is missed. After a failover, names may lead
// elsewhere, so this is asked at each look. A standby may have standbys of its own. One that reads an archive is none of those that stream.
func (p *Postgres) each(ctx context.Context, do func(context.Context, int, *pgx.Conn) error) error {
	standbys, named, seen := 0, 0, map[string]bool{}
	for i, config := range append([]*pgx.ConnConfig{p.Primary}, p.Standbys...) {
		err := in(ctx, config, func(ctx context.Context, conn *pgx.Conn) error {
			recovers, start, receives, receivers := false, "", false, 0
			if err := conn.QueryRow(ctx, serverQuery).Scan(&recovers, &start, &receives, &receivers); err != nil {
				return err
			}
			switch {
			case i > 0 && !recovers:
				return errors.New("it is named with --standby, and is the primary: name the standbys that there are now")
			case seen[start]:
				return errors.New("it is named twice: name each standby once with --standby")
			}
			standbys, seen[start] = standbys+receivers, true
			if receives {
				named++
			}
			return do(ctx, i, conn)
		})
		if err != nil {
			return err
		}
	}
	if standbys > named && !p.IgnoreStandbys {
		return fmt.Errorf("%d standbys receive the log, and %d of those named do: name each with --standby, or say --ignore-standbys if no client logs in there",
			standbys, named)
	}
	return nil
}

// Check implements Database.
func (p *Postgres) Check(ctx context.Context) error {
	return p.each(ctx, func(context.Context, int, *pgx.Conn) error { return nil })
}

const roleQuery = `SELECT r.rolcanlogin, r.rolsuper, r.rolname = session_user,
 coalesce((SELECT pg_has_role(r.oid, g.oid, 'MEMBER') FROM pg_roles g WHERE g.rolname = $2), false),
 coalesce('role=' || $2 = ANY (r.rolconfig), false),
 coalesce(shobj_description(r.oid, 'pg_authid'), '')
FROM pg_roles r WHERE r.rolname = $1`

// operatorQuery returns the operator of a server: some roles are theirs alone.
const operatorQuery = `SELECT coalesce((SELECT CASE rolname WHEN 'streaming_replica' THEN 'CloudNativePG' WHEN '_crunchyrepl' THEN 'Crunchy''s operator'
 ELSE 'Zalando''s operator' END FROM pg_roles WHERE rolname IN ('streaming_replica', '_crunchyrepl', 'robot_zmon', 'zalandos') LIMIT 1), '')`

// Role implements Database.
func (p *Postgres) Role(ctx context.Context, name string) (role Role, err error) {
	err = in(ctx, p.Primary, func(ctx context.Context, conn *pgx.Conn) error {
		var super, own, member, sets bool
		var comment, operator string
		err := conn.QueryRow(ctx, roleQuery, name, p.Group).Scan(&role.CanLogin, &super, &own, &member, &sets, &comment)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			role.Unfit = fmt.Sprintf("there is no such role: CREATE ROLE %s NOLOGIN IN ROLE %s", identifier(name), identifier(p.Group))
			return nil
		case err != nil:
			return err
		}
		if err := conn.QueryRow(ctx, operatorQuery).Scan(&operator); err != nil {
			return err
		}
		switch {
		case super:
			role.Unfit = "it is a superuser"
		case own:
			role.Unfit = "this program is logged in as it: use another login"
		case !member:
			role.Unfit = fmt.Sprintf("it is no member of the group role: GRANT %s TO %s", identifier(p.Group), identifier(name))
		case !sets:
			role.Unfit = fmt.Sprintf("what it creates would be its own: ALTER ROLE %s SET role TO %s", identifier(name), identifier(p.Group))
		case operator != "" && comment != RolesMark && !p.NotManaged:
			role.Unfit = "the server looks like one of " + operator + ", which may keep the password of this login. " + wayOf(operator) +
				". If the operator does not know this login, say --not-managed"
		}
		return nil
	})
	return role, err
}

func wayOf(operator string) string {
	switch operator {
	case "CloudNativePG":
		return "There, rotate with the Secret that managed.roles[].passwordSecret names"
	case "Zalando's operator":
		return "There, rotate with usersWithSecretRotation in the postgresql resource"
	default:
		return "There, remove the password from the user's Secret, and the operator makes a new one"
	}
}

func identifier(name string) string { return pgx.Identifier{name}.Sanitize() }

func (p *Postgres) alter(ctx context.Context, name, what string) error {
	return in(ctx, p.Primary, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "ALTER ROLE "+identifier(name)+" "+what)
		return err
	})
}

// Enable implements Database. A verifier has no character that could end the literal.
func (p *Postgres) Enable(ctx context.Context, name, verifier string) error {
	return p.alter(ctx, name, "LOGIN PASSWORD '"+verifier+"'")
}

// Forbid implements Database.
func (p *Postgres) Forbid(ctx context.Context, name string) error {
	return p.alter(ctx, name, "NOLOGIN")
}

// Allow implements Database.
func (p *Postgres) Allow(ctx context.Context, name string) error { return p.alter(ctx, name, "LOGIN") }

// Forget implements Database.
func (p *Postgres) Forget(ctx context.Context, name string) error {
	return p.alter(ctx, name, "NOLOGIN PASSWORD NULL")
}

// Position implements Database. Without a standby the position is not needed: some services do not tell it.
func (p *Postgres) Position(ctx context.Context) (position string, err error) {
	if len(p.Standbys) == 0 {
		return "0/0", nil
	}
	err = in(ctx, p.Primary, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&position)
	})
	return position, err
}

// Behind implements Database.
func (p *Postgres) Behind(ctx context.Context, position string) (behind []string, err error) {
	err = p.each(ctx, func(ctx context.Context, i int, conn *pgx.Conn) error {
		if i == 0 {
			return nil
		}
		replayed := false
		err := conn.QueryRow(ctx, "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)", position).Scan(&replayed)
		if err == nil && !replayed {
			behind = append(behind, "server "+where(conn.Config()))
		}
		return err
	})
	return behind, err
}

const sessionsQuery = `SELECT count(*), coalesce(min(host(client_addr)), 'a local socket'), coalesce(min(nullif(application_name, '')), 'no name')
 FROM pg_stat_activity WHERE usename = $1`

// Sessions implements Database.
func (p *Postgres) Sessions(ctx context.Context, name string) (found []string, err error) {
	err = p.each(ctx, func(ctx context.Context, _ int, conn *pgx.Conn) error {
		count, address, application := 0, "", ""
		if err := conn.QueryRow(ctx, sessionsQuery, name).Scan(&count, &address, &application); err != nil || count == 0 {
			return err
		}
		server := where(conn.Config())
		found = append(found, fmt.Sprintf("server %s: %d sessions, one from %s (%s)", server, count, address, escort.Printable(application)))
		return nil
	})
	return found, err
}

const processesQuery = `SELECT pid, coalesce(state_change::text, ''), pg_has_role('pg_read_all_stats', 'USAGE') OR pg_has_role(usesysid, 'USAGE')
 FROM pg_stat_activity WHERE usename = $1`

// Processes implements Database. To a login that may not see a session, the session has no state, and would never be idle.
func (p *Postgres) Processes(ctx context.Context, name string) (found []Process, err error) {
	err = p.each(ctx, func(ctx context.Context, i int, conn *pgx.Conn) error {
		process, visible := Process{Server: i}, false
		rows, err := conn.Query(ctx, processesQuery, name)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&process.ID, &process.State, &visible}, func() error {
			if !visible {
				return fmt.Errorf("its login may not see what sessions do: GRANT pg_read_all_stats TO %s", identifier(conn.Config().User))
			}
			found = append(found, process)
			return nil
		})
		return err
	})
	return found, err
}

const endQuery = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE usename = $1 AND state = 'idle' AND pid = $2 AND state_change::text = $3`

// End implements Database.
func (p *Postgres) End(ctx context.Context, name string, processes []Process) error {
	return p.each(ctx, func(ctx context.Context, i int, conn *pgx.Conn) error {
		for _, process := range processes {
			if process.Server != i {
				continue
			}
			ended := 0
			if err := conn.QueryRow(ctx, endQuery, name, process.ID, process.State).Scan(&ended); err != nil {
				return err
			}
		}
		return nil
	})
}
