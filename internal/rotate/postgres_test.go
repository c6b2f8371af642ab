package rotate

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/debian"
	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

func TestPostgres_RolesThatAreUnfit_SaysWhatToDo(t *testing.T) {
	parts.Require(t)
	database := postgres.Shared(t)
	primary, err := Connection(fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", database.Addr), true)
	require.NoError(t, err)
	p := &Postgres{Primary: primary, Group: "unfit_group"}
	for _, sql := range []string{
		"CREATE ROLE unfit_group NOLOGIN", "CREATE ROLE outsider LOGIN", "CREATE ROLE plain IN ROLE unfit_group",
		"CREATE ROLE fit IN ROLE unfit_group", "ALTER ROLE fit SET role TO unfit_group", "CREATE ROLE boss SUPERUSER",
	} {
		database.Query(t, sql)
	}
	defer database.Query(t, "DROP ROLE IF EXISTS outsider, plain, fit, boss, unfit_group, streaming_replica")
	for name, says := range map[string]string{
		"fit": "", "outsider": `GRANT "unfit_group" TO "outsider"`, "plain": `ALTER ROLE "plain" SET role TO "unfit_group"`,
		"boss": "superuser", "postgres": "superuser", `no"body`: `CREATE ROLE "no""body" NOLOGIN`,
	} {
		role, err := p.Role(t.Context(), name)
		require.NoError(t, err)
		require.Contains(t, role.Unfit, says, name)
		require.Equal(t, says == "", role.Unfit == "", name)
		require.Equal(t, name == "outsider" || name == "postgres", role.CanLogin, name)
	}
	database.Query(t, "CREATE ROLE streaming_replica")
	role, err := p.Role(t.Context(), "fit")
	require.NoError(t, err)
	require.Contains(t, role.Unfit, "the server looks like one of CloudNativePG")
	p.NotManaged = true
	role, err = p.Role(t.Context(), "fit")
	require.NoError(t, err)
	require.Empty(t, role.Unfit)
	database.Query(t, "COMMENT ON ROLE fit IS '"+RolesMark+"'")
	p.NotManaged = false
	role, err = p.Role(t.Context(), "fit")
	require.NoError(t, err)
	require.Empty(t, role.Unfit, "the program roles made it")
	require.NoError(t, p.Check(t.Context()))
}

// initdb without a locale makes databases that have no encoding, and the simple protocol needs one.
func TestConnection_DatabaseWithoutEncoding_Works(t *testing.T) {
	parts.Require(t)
	database := postgres.Shared(t)
	database.Query(t, "CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	defer database.Query(t, "DROP DATABASE plain")
	primary, err := Connection(fmt.Sprintf("postgres://postgres@%s/plain?sslmode=disable", database.Addr), true)
	require.NoError(t, err)
	_, err = (&Postgres{Primary: primary}).Sessions(t.Context(), "nobody")
	require.NoError(t, err)
}

func TestConnection_Nonsense_ErrorDoesNotShowIt(t *testing.T) {
	_, err := Connection("postgres://user:secret@host:port/db", true)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}

// Whoever answers for the server asks for the password.
func TestConnection_ServerIsNotVerified_IsNotToldThePassword(t *testing.T) {
	for mode, c := range map[string]struct {
		settings string
		told     bool
	}{
		"disable":  {"sslmode=disable", false},
		"prefer":   {"", false},
		"asked to": {"sslmode=disable require_auth=password", true},
	} {
		t.Run(mode, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer listener.Close()
			told := make(chan bool, 1)
			go func() { told <- asksForThePassword(listener) }()
			port := listener.Addr().(*net.TCPAddr).Port
			config, err := Connection(fmt.Sprintf("host=127.0.0.1 port=%d user=postgres password=hidden %s", port, c.settings), true)
			require.NoError(t, err)
			err = (&Postgres{Primary: config}).Check(t.Context())
			require.Error(t, err)
			require.NotContains(t, err.Error(), "hidden")
			require.NoError(t, listener.Close())
			require.Equal(t, c.told, <-told)
		})
	}
}

// asksForThePassword asks each client for its password in clear text, without TLS, and reports whether one told it.
func asksForThePassword(listener net.Listener) (told bool) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return told
		}
		told = isToldThePassword(conn) || told
	}
}

func isToldThePassword(conn net.Conn) bool {
	defer conn.Close()
	server := pgproto3.NewBackend(conn, conn)
	for {
		message, err := server.ReceiveStartupMessage()
		if err != nil {
			return false
		}
		if _, is := message.(*pgproto3.StartupMessage); is {
			break
		}
		if _, err := conn.Write([]byte("N")); err != nil { // no TLS
			return false
		}
	}
	server.Send(&pgproto3.AuthenticationCleartextPassword{})
	if server.Flush() != nil || server.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
		return false
	}
	message, err := server.Receive()
	password, is := message.(*pgproto3.PasswordMessage)
	return err == nil && is && password.Password == "hidden"
}

func TestConnection_CertificateIsVerified_PasswordIsAllowed(t *testing.T) {
	t.Setenv("PGSSLMODE", "verify-full")
	for settings, method := range map[string]string{
		"host=pg": "", "host=pg sslmode=verify-ca": "", "host=pg,other": "", "host=pg sslmode=require": "!password", "host=/run,pg": "!password",
		"host=pg sslmode=require require_auth=scram-sha-256": "scram-sha-256",
	} {
		config, err := Connection(settings, true)
		require.NoError(t, err)
		require.Equal(t, method, config.RequireAuth, settings)
	}
}

// unprivileged is the login that the README allows, with what it needs and nothing more.
func unprivileged(t *testing.T, database *postgres.Database) *Postgres {
	for _, sql := range []string{
		"DROP ROLE IF EXISTS " + blue + ", " + green + ", " + group + ", rotator",
		"CREATE ROLE rotator LOGIN NOINHERIT CREATEROLE", "CREATE ROLE " + group + " NOLOGIN", "CREATE ROLE " + blue + " LOGIN IN ROLE " + group,
		"GRANT " + blue + " TO rotator WITH ADMIN OPTION", "GRANT pg_signal_backend TO rotator",
	} {
		database.Query(t, sql)
	}
	primary, err := Connection(fmt.Sprintf("postgres://rotator@%s/postgres?sslmode=disable", database.Addr), true)
	require.NoError(t, err)
	return &Postgres{Primary: primary, Group: group}
}

// PostgreSQL shows such a login a standby, and not what it does.
func TestPostgres_LoginThatSeesNoState_StandbysCount(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{Access: "host all rotator 127.0.0.1/32 trust\n"})
	p := unprivileged(t, database)
	require.NoError(t, p.Check(t.Context()))
	stream(t, database, "standby-1")
	stream(t, database, "pg_receivewal")
	require.ErrorContains(t, p.Check(t.Context()), "1 standbys receive the log, and 0 of those named do")
	p.Primary.User = "postgres"
	require.ErrorContains(t, p.Check(t.Context()), "1 standbys receive the log, and 0 of those named do")
	p.IgnoreStandbys = true
	require.NoError(t, p.Check(t.Context()))
}

// A standby may have any name but those of PostgreSQL's own tools.
func TestPostgres_StandbyIsNamedLikeATool_Counts(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{})
	p := &Postgres{Primary: connection(t, database, true)}
	stream(t, database, "pg_receivewal")
	require.NoError(t, p.Check(t.Context()))
	stream(t, database, "pg_replica1")
	require.ErrorContains(t, p.Check(t.Context()), "1 standbys receive the log, and 0 of those named do")
}

// In a failover, the standby that was named becomes the primary. Nobody would look at the new one.
func TestPostgres_Standbys_EachIsAnotherServerInRecovery(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{})
	standby := postgres.StartWith(t, postgres.Options{StandbyOf: database})
	primary, named, promoted := connection(t, database, true), connection(t, standby, false), connection(t, database, false)
	streams(t, database, standby)
	for says, p := range map[string]*Postgres{
		"":                                     {Primary: primary, Standbys: []*pgx.ConnConfig{named}},
		"and is the primary":                   {Primary: primary, Standbys: []*pgx.ConnConfig{promoted}},
		"it is named twice":                    {Primary: primary, Standbys: []*pgx.ConnConfig{named, named}},
		"1 standbys receive the log, and 0 of": {Primary: primary},
	} {
		t.Run(says, func(t *testing.T) {
			found, err := p.Sessions(t.Context(), "postgres")
			for _, err := range []error{p.Check(t.Context()), err} {
				if says == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, says)
				}
			}
			if says == "" {
				require.Len(t, found, 2, "the sessions that look")
			}
		})
	}
}

// A standby of a standby is none of the primary's.
func TestPostgres_StandbyHasAStandby_Counts(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{})
	standby := postgres.StartWith(t, postgres.Options{StandbyOf: database})
	p := &Postgres{Primary: connection(t, database, true), Standbys: []*pgx.ConnConfig{connection(t, standby, false)}}
	streams(t, database, standby)
	require.NoError(t, p.Check(t.Context()))
	second := postgres.StartWith(t, postgres.Options{StandbyOf: standby})
	streams(t, standby, second)
	require.ErrorContains(t, p.Check(t.Context()), "2 standbys receive the log, and 1 of those named do")
	p.Standbys = append(p.Standbys, connection(t, second, false))
	require.NoError(t, p.Check(t.Context()))
}

// A standby that is named may get its log from an archive. Then what streams from the primary is another one.
func TestPostgres_NamedStandbyDoesNotStream_TheOtherCounts(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{})
	archive := postgres.StartWith(t, postgres.Options{StandbyOf: database, Settings: []string{"primary_conninfo="}})
	p := &Postgres{Primary: connection(t, database, true), Standbys: []*pgx.ConnConfig{connection(t, archive, false)}}
	require.NoError(t, p.Check(t.Context()))
	stream(t, database, "standby-2")
	require.ErrorContains(t, p.Check(t.Context()), "1 standbys receive the log, and 0 of those named do")
}

// The standby of this test replays commits an hour late.
func TestPostgres_StandbyReplaysLate_IsBehind(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{})
	p := &Postgres{Primary: connection(t, database, true)}
	position, err := p.Position(t.Context())
	require.NoError(t, err)
	behind, err := p.Behind(t.Context(), position)
	require.NoError(t, err)
	require.Empty(t, behind, "there is no standby")
	standby := postgres.StartWith(t, postgres.Options{StandbyOf: database, Settings: []string{"recovery_min_apply_delay=1h"}})
	p.Standbys = []*pgx.ConnConfig{connection(t, standby, false)}
	streams(t, database, standby)
	database.Query(t, "CREATE ROLE late")
	position, err = p.Position(t.Context())
	require.NoError(t, err)
	behind, err = p.Behind(t.Context(), position)
	require.NoError(t, err)
	require.Equal(t, []string{"server " + standby.Addr}, behind)
	behind, err = p.Behind(t.Context(), "0/1")
	require.NoError(t, err)
	require.Empty(t, behind)
}

// streams waits until a standby receives the log of a server, as both of them say.
func streams(t *testing.T, from, standby *postgres.Database) {
	awaitSender(t, from, "walreceiver")
	conn, err := pgx.ConnectConfig(t.Context(), connection(t, standby, false))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.Eventually(t, func() bool {
		status := ""
		return conn.QueryRow(t.Context(), "SELECT status FROM pg_stat_wal_receiver").Scan(&status) == nil && status == "streaming"
	}, debian.StartTimeout, 20*time.Millisecond)
}

func connection(t *testing.T, database *postgres.Database, primary bool) *pgx.ConnConfig {
	config, err := Connection(fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", database.Addr), primary)
	require.NoError(t, err)
	return config
}

// stream receives the log of the primary, as a standby does.
func stream(t *testing.T, database *postgres.Database, name string) {
	postgres.Stream(t, fmt.Sprintf("postgres://postgres@%s/?sslmode=disable&replication=true&application_name=%s", database.Addr, name))
	awaitSender(t, database, name)
}

// awaitSender waits until a server says that it sends its log to a receiver of this name: it answers the receiver before it says so.
func awaitSender(t *testing.T, server *postgres.Database, name string) {
	conn, err := pgx.ConnectConfig(t.Context(), connection(t, server, false))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.Eventually(t, func() bool {
		sends := false
		err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state IN ('streaming', 'catchup'))",
			name).Scan(&sends)
		return err == nil && sends
	}, debian.StartTimeout, 20*time.Millisecond)
}

// keeps is poolers that keep these connections. A client takes one right after they have said so.
type keeps struct {
	Poolers
	processes []int
	taken     func()
}

func (k keeps) Kept(context.Context, string) ([]int, error) {
	k.taken()
	return k.processes, nil
}

func TestRotation_KeptConnectionIsTakenByAClient_ItsSessionStays(t *testing.T) {
	parts.Require(t)
	database := postgres.Shared(t)
	primary, err := Connection(fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", database.Addr), true)
	require.NoError(t, err)
	session, err := postgres.Connect(t.Context(), database.Addr, postgres.App, postgres.App.Name)
	require.NoError(t, err)
	defer session.Close(t.Context())
	use := func() error { _, err := session.Exec(t.Context(), "SELECT").ReadAll(); return err }
	require.NoError(t, use())
	kept := keeps{processes: []int{int(session.PID())}, taken: func() { assert.NoError(t, use()) }}
	told := []string{}
	r := &Rotation{Database: &Postgres{Primary: primary}, Poolers: &kept, Tell: func(text string) { told = append(told, text) }}
	r.endKept(t.Context(), postgres.App.Name)
	require.NoError(t, use(), "it is not ended")
	kept.taken = func() {}
	r.endKept(t.Context(), postgres.App.Name)
	require.Error(t, use(), "nobody has used it since")
	require.Empty(t, told)
}

func TestRotation_LoginMayNotSeeSessions_SaysWhatIsMissing(t *testing.T) {
	database := postgres.StartWith(t, postgres.Options{Access: "host all rotator," + blue + " 127.0.0.1/32 trust\n"})
	p := unprivileged(t, database)
	session, err := postgres.Connect(t.Context(), database.Addr, postgres.User{Name: blue}, "postgres")
	require.NoError(t, err)
	defer session.Close(t.Context())
	told := []string{}
	r := &Rotation{Database: p, Poolers: &keeps{processes: []int{int(session.PID())}, taken: func() {}}, Tell: func(text string) { told = append(told, text) }}
	r.endKept(t.Context(), blue)
	require.Len(t, told, 1)
	require.Contains(t, told[0], `GRANT pg_read_all_stats TO "rotator"`)
	database.Query(t, "GRANT pg_read_all_stats TO rotator; ALTER ROLE rotator INHERIT")
	r.endKept(t.Context(), blue)
	_, err = session.Exec(t.Context(), "SELECT").ReadAll()
	require.Error(t, err, "it is ended")
	require.Len(t, told, 1)
}
