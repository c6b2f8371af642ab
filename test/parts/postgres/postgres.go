// Package postgres runs a real PostgreSQL on the loopback interface, for tests without Kubernetes and without containers.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/debian"
	"quiesce/test/parts/need"
	"quiesce/test/parts/ports"
)

// User is an account.
type User struct{ Name, Password string }

// App is the account of the application, which owns the database of the same name.
var App = User{"app", "the app's password"}

// Database is a running PostgreSQL 15, unless a test wants another. Its superuser postgres needs no password; all other users do.
type Database struct {
	Addr string
	Port int

	dir     string
	process *debian.Process
}

// Options are what a test wants of its own database.
type Options struct {
	Settings  []string  // name=value
	Access    string    // further lines of pg_hba.conf, which come first
	StandbyOf *Database // a standby that streams from this database, or from this standby
	Newer     bool      // PostgreSQL 17, of the image with Patroni
}

// image returns the image, and the version of PostgreSQL in it.
func (o Options) image() (debian.Image, string, error) {
	name, tag, postgres := "postgres", version, version
	if o.Newer {
		name, tag, postgres = "patroni", "4.0", "17"
	}
	image, err := debian.Unpacked(name, tag)
	return image, postgres, err
}

// Start runs a database until the test ends. Without the image the test is skipped, or fails if CI=true.
func Start(t testing.TB) *Database {
	t.Helper()
	return StartWith(t, Options{})
}

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) *Database {
	t.Helper()
	_, _, err := o.image()
	need.Part(t, err)
	d, err := startDatabase(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.stop()) })
	return d
}

// shared is the database of a test binary. The first test that needs it starts it.
var shared = sync.OnceValues(func() (*Database, error) {
	d, err := startDatabase(Options{})
	if err == nil {
		stopShared = d.stop
	}
	return d, err
})

var stopShared = func() error { return nil }

// Shared returns the one database of all tests of a package, whose TestMain calls Run.
func Shared(t testing.TB) *Database {
	t.Helper()
	Require(t)
	d, err := shared()
	require.NoError(t, err)
	return d
}

// Run runs a package's tests, then stops their shared database. It returns the exit status.
func Run(m *testing.M) int {
	status := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// Require skips or fails a test without the image that databases run from.
func Require(t testing.TB) {
	t.Helper()
	_, err := debian.Unpacked("postgres", version)
	need.Part(t, err)
}

const version = "15"

func startDatabase(o Options) (_ *Database, err error) {
	dir, err := debian.MakeFolder("quiesce-database")
	if err != nil {
		return nil, fmt.Errorf("make the database's folder: %w", err)
	}
	d := &Database{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start a database: %w", err), os.RemoveAll(dir))
		}
	}()
	programs, err := d.install(o)
	if err != nil {
		return nil, err
	}
	if err := d.initialize(programs, o); err != nil {
		return nil, err
	}
	if err := d.serve(programs, o); err != nil {
		return nil, err
	}
	if o.StandbyOf != nil {
		return d, nil
	}
	if err := d.populate(); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// install lays out an installation as the programs expect it, and returns the folder of the programs.
func (d *Database) install(o Options) (string, error) {
	image, version, err := o.image()
	if err != nil {
		return "", err
	}
	home := "usr/lib/postgresql/" + version
	programs := filepath.Join(d.dir, home, "bin")
	if err := os.MkdirAll(programs, 0o755); err != nil {
		return "", err
	}
	for _, folder := range []string{"usr/share", home + "/lib"} {
		if err := os.Symlink(filepath.Join(image.Root, folder), filepath.Join(d.dir, folder)); err != nil {
			return "", err
		}
	}
	for _, program := range []string{"initdb", "pg_basebackup", "postgres"} {
		if _, err := image.Wrap(programs, filepath.Join(home, "bin", program)); err != nil {
			return "", err
		}
	}
	return programs, nil
}

func (d *Database) data() string { return filepath.Join(d.dir, "data") }

const access = `host all,replication postgres 127.0.0.1/32 trust
host all,replication all 127.0.0.1/32 scram-sha-256
`

func (d *Database) initialize(programs string, o Options) error {
	program, args := "initdb", []string{"-U", "postgres", "--auth", "trust", "--no-instructions", "--encoding", "UTF8", "--locale", "C"}
	if of := o.StandbyOf; of != nil {
		program, args = "pg_basebackup", []string{"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres", of.Port), "-R", "--checkpoint", "fast"}
	}
	cmd := debian.Command(context.Background(), d.dir, filepath.Join(programs, program), append(args, "-D", d.data(), "--no-sync")...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initialize the data folder: %w\n%s", err, output)
	}
	return os.WriteFile(filepath.Join(d.data(), "pg_hba.conf"), []byte(o.Access+access), 0o644)
}

func (d *Database) serve(programs string, o Options) (err error) {
	if d.Port, err = ports.Free(); err != nil {
		return err
	}
	d.Addr = ports.Address(d.Port)
	args := []string{"-D", d.data(), "-h", "127.0.0.1", "-p", fmt.Sprint(d.Port)}
	settings := []string{"unix_socket_directories=", "max_connections=200", "fsync=off", "jit=off", "log_timezone=UTC", "timezone=UTC"}
	for _, setting := range append(settings, o.Settings...) {
		args = append(args, "-c", setting)
	}
	cmd := debian.Command(context.Background(), d.dir, filepath.Join(programs, "postgres"), args...)
	d.process, err = debian.Start(cmd, func(ctx context.Context) error { return d.query(ctx, "SELECT") })
	return err
}

func (d *Database) populate() error {
	ctx, cancel := context.WithTimeout(context.Background(), debian.StartTimeout)
	defer cancel()
	password := strings.ReplaceAll(App.Password, "'", "''")
	return errors.Join(
		d.query(ctx, "CREATE ROLE "+App.Name+" LOGIN PASSWORD '"+password+"'"),
		d.query(ctx, "CREATE DATABASE "+App.Name+" OWNER "+App.Name),
	)
}

// Log returns the database's log so far.
func (d *Database) Log(t testing.TB) string {
	t.Helper()
	log, err := os.ReadFile(d.process.Log)
	require.NoError(t, err)
	return string(log)
}

// Query runs SQL as the superuser.
func (d *Database) Query(t testing.TB, sql string) {
	t.Helper()
	require.NoError(t, d.query(t.Context(), sql))
}

func (d *Database) query(ctx context.Context, sql string) error {
	connection, err := Connect(ctx, d.Addr, User{Name: "postgres"}, "postgres")
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	if _, err := connection.Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// stop stops PostgreSQL with a fast shutdown, which does not wait for clients.
func (d *Database) stop() error {
	d.process.Stop(syscall.SIGINT)
	return os.RemoveAll(d.dir)
}

// Connect logs in without TLS.
func Connect(ctx context.Context, addr string, user User, database string) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig("postgres://" + addr + "/" + database + "?sslmode=disable&user=" + user.Name)
	if err != nil {
		return nil, err
	}
	config.Password = user.Password
	return pgconn.ConnectConfig(ctx, config)
}
