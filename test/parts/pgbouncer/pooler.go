package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/debian"
	"quiesce/test/parts/need"
	"quiesce/test/parts/ports"
	"quiesce/test/parts/postgres"
)

// User is an account.
type User = postgres.User

// The accounts of the poolers' userlists.
var (
	App   = postgres.App
	Admin = User{Name: "quiesce", Password: "the admin's password"} // in admin_users: may run all console commands
	Stats = User{Name: "stats", Password: "the watcher's password"} // in stats_users: may only read
)

// Run runs a package's tests, then stops their shared database. It returns the exit status.
func Run(m *testing.M) int { return postgres.Run(m) }

// Require skips or fails a test without the images that poolers and databases run from.
func Require(t testing.TB) {
	t.Helper()
	postgres.Require(t)
	_, older := debian.Unpacked("pgbouncer", Older)
	_, newer := debian.Unpacked("pgbouncer", Newer)
	need.Part(t, errors.Join(older, newer))
}

// Options configures a pooler.
type Options struct {
	PoolMode string            // default transaction
	AuthType string            // default scram-sha-256
	Settings map[string]string // of the section [pgbouncer]; they override the others
	Users    []User            // in the userlist, in addition to App, Admin and Stats
	Aliases  []string          // further names of App's database
	Own      string            // settings of these databases, as in server_lifetime=60
	TLS      string            // client_tls_sslmode; if set, there is a certificate for ServerName
}

// Pooler is a running pgbouncer with one database, that of App, under one name or several.
type Pooler struct {
	Addr string
	CA   []byte // certificate for TLS, as PEM

	process   *debian.Process
	userlist  string
	mutex     sync.Mutex
	passwords map[string]string
}

// Start runs a pgbouncer, version "1.18" or "1.24", in front of the package's shared database until the test ends.
func Start(t testing.TB, version string, o Options) *Pooler {
	t.Helper()
	Require(t)
	database := postgres.Shared(t)
	image, err := debian.Unpacked("pgbouncer", version)
	require.NoError(t, err)
	dir, err := debian.MakeFolder("quiesce-pooler")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	p := &Pooler{userlist: filepath.Join(dir, "userlist.txt"), passwords: map[string]string{}}
	for _, user := range append([]User{App, Admin, Stats}, o.Users...) {
		p.passwords[user.Name] = user.Password
	}
	require.NoError(t, p.writeUserlist())
	require.NoError(t, p.start(image, dir, database, o))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the pooler's log: %s", tail(p.Log(t)))
		}
		p.process.Stop(syscall.SIGKILL)
	})
	return p
}

// logTail is how many bytes of its log a failed test shows: the last hundred lines.
const logTail = 10_000

func tail(log string) string { return log[max(0, len(log)-logTail):] }

// starts is how often a start is tried: another process may take the free port before the pooler listens.
const starts = 5

func (p *Pooler) start(image debian.Image, dir string, database *postgres.Database, o Options) (err error) {
	for range starts {
		settings, configErr := p.configure(dir, o)
		if configErr != nil {
			return configErr
		}
		err = p.run(image, dir, databases(database, o)+settings)
		if err == nil || !strings.Contains(err.Error(), "Address already in use") {
			return err
		}
	}
	return err
}

func databases(d *postgres.Database, o Options) string {
	text := "[databases]\n"
	for _, name := range append([]string{App.Name}, o.Aliases...) {
		text += fmt.Sprintf("%s = host=127.0.0.1 port=%d dbname=%s %s\n", name, d.Port, App.Name, o.Own)
	}
	return text
}

// configure chooses the port and returns the section [pgbouncer].
func (p *Pooler) configure(dir string, o Options) (string, error) {
	port, err := ports.Free()
	if err != nil {
		return "", err
	}
	p.Addr = ports.Address(port)
	settings := map[string]string{
		"listen_addr": "127.0.0.1", "listen_port": fmt.Sprint(port), "unix_socket_dir": "",
		"auth_type": either(o.AuthType, "scram-sha-256"), "auth_file": p.userlist,
		"admin_users": Admin.Name, "stats_users": Stats.Name,
		"pool_mode": either(o.PoolMode, "transaction"),
	}
	if o.TLS != "" {
		if err := p.certify(dir); err != nil {
			return "", err
		}
		settings["client_tls_sslmode"] = o.TLS
		settings["client_tls_cert_file"] = filepath.Join(dir, certificateFile)
		settings["client_tls_key_file"] = filepath.Join(dir, keyFile)
	}
	maps.Copy(settings, o.Settings)
	text := "[pgbouncer]\n"
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		text += name + " = " + settings[name] + "\n"
	}
	return text, nil
}

func either(given, usual string) string {
	if given == "" {
		return usual
	}
	return given
}

func (p *Pooler) run(image debian.Image, dir, configuration string) error {
	program, err := image.Wrap(dir, "usr/sbin/pgbouncer")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(configuration), 0o644); err != nil {
		return err
	}
	p.process, err = debian.Start(debian.Command(context.Background(), dir, program, file), p.accepts)
	return err
}

func (p *Pooler) accepts(ctx context.Context) error {
	connection, err := p.Dial(ctx)
	if err != nil {
		return err
	}
	return connection.Close()
}

// Dial opens a new connection to the pooler's port.
func (p *Pooler) Dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", p.Addr)
}

// Connect logs App in to its database through the pooler, until the test ends.
func (p *Pooler) Connect(t testing.TB) *pgconn.PgConn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	connection, err := postgres.Connect(t.Context(), p.Addr, App, App.Name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = connection.Close(ctx) })
	return connection
}

// Signal sends the pooler a signal, unless it has exited.
func (p *Pooler) Signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := p.process.Signal(signal); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(t, err)
	}
}

// PID returns the number of the pooler's process.
func (p *Pooler) PID() int { return p.process.Pid }

// Ended returns a channel that is closed when the pooler has exited.
func (p *Pooler) Ended() <-chan struct{} { return p.process.Ended }

// State returns how the pooler exited; nil before Ended is closed.
func (p *Pooler) State() *os.ProcessState {
	select {
	case <-p.process.Ended:
		return p.process.State
	default:
		return nil
	}
}

// Log returns everything that the pooler has logged.
func (p *Pooler) Log(t testing.TB) string {
	t.Helper()
	log, err := os.ReadFile(p.process.Log)
	require.NoError(t, err)
	return string(log)
}

// SetPassword changes the userlist and returns when the pooler has read it.
func (p *Pooler) SetPassword(t testing.TB, user, password string) {
	t.Helper()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.passwords[user] = password
	require.NoError(t, p.writeUserlist())
	const reading = "got SIGHUP"
	before := strings.Count(p.Log(t), reading)
	p.Signal(t, syscall.SIGHUP)
	// pgbouncer logs this before it reads the file, but its only thread also answers logins.
	require.Eventually(t, func() bool { return strings.Count(p.Log(t), reading) > before }, debian.StartTimeout, debian.PollInterval)
}

// writeUserlist replaces the file by a new one: pgbouncer would not reread a file of the same size that was changed within a
// second.
func (p *Pooler) writeUserlist() error {
	var text strings.Builder
	for _, user := range slices.Sorted(maps.Keys(p.passwords)) {
		fmt.Fprintf(&text, "%s %s\n", quoted(user), quoted(p.passwords[user]))
	}
	if err := os.WriteFile(p.userlist+".new", []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(p.userlist+".new", p.userlist)
}

func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }
