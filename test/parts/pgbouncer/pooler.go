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
)

// Options says what a pooler should be like.
type Options struct {
	PoolMode string            // transaction, if empty
	AuthType string            // scram-sha-256, if empty
	Settings map[string]string // of the section [pgbouncer], over all others
	Users    []User            // in the userlist, beside App, Admin and Stats
	TLS      string            // client_tls_sslmode; if set, there is a certificate for ServerName
}

// Pooler is a running pgbouncer, with one database: the app's.
type Pooler struct {
	Addr string
	CA   []byte // PEM, of the certificate for TLS

	process   *process
	userlist  string
	mutex     sync.Mutex
	passwords map[string]string
}

// Pooler runs a pgbouncer of a generation, "1.18" or "1.24", in front of the database until the test ends.
func (d *Database) Pooler(t testing.TB, version string, o Options) *Pooler {
	t.Helper()
	image, err := unpacked("pgbouncer", version)
	require.NoError(t, err)
	dir, err := makeFolder("quiesce-pooler")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	p := &Pooler{userlist: filepath.Join(dir, "userlist.txt"), passwords: map[string]string{}}
	for _, user := range append([]User{App, Admin, Stats}, o.Users...) {
		p.passwords[user.Name] = user.Password
	}
	require.NoError(t, p.writeUserlist())
	require.NoError(t, p.start(image, dir, d, o))
	t.Cleanup(func() { p.process.stop(syscall.SIGKILL) })
	return p
}

// starts is how often a pooler is started: the port that was free may be another's by the time that it listens.
const starts = 5

func (p *Pooler) start(image debian, dir string, d *Database, o Options) (err error) {
	for range starts {
		settings, fault := p.configure(dir, o)
		if fault != nil {
			return fault
		}
		err = p.run(image, dir, d.databases()+settings)
		if err == nil || !strings.Contains(err.Error(), "Address already in use") {
			return err
		}
	}
	return err
}

func (d *Database) databases() string {
	return fmt.Sprintf("[databases]\n%s = host=127.0.0.1 port=%d\n", App.Name, d.port)
}

// configure chooses the port and makes the section [pgbouncer].
func (p *Pooler) configure(dir string, o Options) (string, error) {
	port, err := freePort()
	if err != nil {
		return "", err
	}
	p.Addr = address(port)
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

func (p *Pooler) run(image debian, dir, configuration string) error {
	program, err := image.wrap(dir, "usr/sbin/pgbouncer")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(configuration), 0o644); err != nil {
		return err
	}
	p.process, err = start(command(context.Background(), dir, program, file), p.accepts)
	return err
}

func (p *Pooler) accepts(ctx context.Context) error {
	connection, err := p.Dial(ctx)
	if err != nil {
		return err
	}
	return connection.Close()
}

// Dial opens a fresh connection to the pooler's port.
func (p *Pooler) Dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", p.Addr)
}

// Connect logs the app in to its database through the pooler, until the test ends.
func (p *Pooler) Connect(t testing.TB) *pgconn.PgConn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	connection, err := connect(t.Context(), p.Addr, App, App.Name)
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

// Ended is closed when the pooler has exited.
func (p *Pooler) Ended() <-chan struct{} { return p.process.ended }

// State is how the pooler exited: nil before Ended is closed.
func (p *Pooler) State() *os.ProcessState {
	select {
	case <-p.process.ended:
		return p.process.state
	default:
		return nil
	}
}

// Log is all that the pooler has said.
func (p *Pooler) Log(t testing.TB) string {
	t.Helper()
	log, err := os.ReadFile(p.process.log)
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
	// What is logged is said before the file is read, but by the one thread that also answers logins.
	require.Eventually(t, func() bool { return strings.Count(p.Log(t), reading) > before }, startTimeout, probeInterval)
}

// writeUserlist replaces the file by another: one of the same size changed within a second would not be read again.
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
