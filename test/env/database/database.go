// Package database deploys PostgreSQL, pgbouncers behind a Service, and clients that run transactions through them, on a lab's
// real nodes: workers, whose records can be compared with what the database has, and pgbench. The poolers may also be in front of a
// PostgreSQL that was deployed otherwise.
package database

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quiesce/test/parts/lab"
)

//go:embed manifests
var manifests embed.FS

var templates = template.Must(template.ParseFS(manifests, "manifests/*.yaml"))

const (
	// AdminUser and AdminPassword log in to the poolers' console. The Secret pgbouncer-admin has them too.
	AdminUser     = "admin"
	AdminPassword = "lab-console-password"
	// Port is the port of the poolers.
	Port = 6432

	pollInterval = 200 * time.Millisecond // between checks of pods that take seconds to start
	// DefaultPoolers is the default number of poolers, each on a node of its own.
	DefaultPoolers = 2
	// cannotConnectNow is PostgreSQL's error code while it starts (https://www.postgresql.org/docs/15/errcodes-appendix.html).
	cannotConnectNow = "57P03"
	// defaultGrace is the grace period that Kubernetes sets by default, in seconds.
	defaultGrace = 30
)

// Recommended are the recommended preStop hooks, by version of pgbouncer.
var Recommended = map[string]string{"1.18": "sleep 15", "1.24": "sleep 5"}

// Options configures the poolers.
type Options struct {
	Namespace string // will be created
	Base      string // label `group` of the nodes of PostgreSQL and the workers, which are never terminated
	Group     string // label `group` of the nodes of the poolers
	Version   string // of pgbouncer: 1.18 or 1.24

	Poolers        int      // default DefaultPoolers, each on a node of its own
	Daemon         bool     // run as a DaemonSet: one pooler on each node of Group
	Together       bool     // on one node if possible
	PoolMode       string   // default transaction
	AuthType       string   // default scram-sha-256
	Grace          int      // seconds; default 30
	PreStop        string   // a shell command; default none
	MaxUnavailable string   // of their PDB; default 1
	LoginRetry     int      // seconds without a new attempt after a failed login to PostgreSQL; default 1. pgbouncer's own default is 15
	AuthQuery      bool     // ask PostgreSQL for the passwords of users, and log in there with what clients prove; default: a list of users
	Users          []string // lines of the userlist, of users whom PostgreSQL knows too; default: worker, who is postgres there
	Admins         []string // administrators of the console beside AdminUser
	Login          string   // Secret with the login of the workers, which they read before each connection; default: worker's
	Alias          string   // a second name of the database, which PAUSE postgres leaves alone; default none

	// Labels are those of poolers that somebody else deploys, with a Service pgbouncer; default PoolerLabels, and they are deployed here.
	Labels labels.Set
}

func (o Options) withDefaults() Options {
	if o.Poolers == 0 {
		o.Poolers = DefaultPoolers
	}
	if o.PoolMode == "" {
		o.PoolMode = "transaction"
	}
	if o.AuthType == "" {
		o.AuthType = "scram-sha-256"
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.MaxUnavailable == "" {
		o.MaxUnavailable = "1"
	}
	if o.LoginRetry == 0 {
		o.LoginRetry = 1
	}
	return o
}

// Server is a PostgreSQL that the poolers are in front of.
type Server struct {
	Host    string                                // what the poolers connect to
	Primary func(context.Context) (string, error) // returns the address of the server that has all committed transactions now
}

// Database is a running database with its poolers and clients.
type Database struct {
	Options
	lab         *lab.Lab
	server      Server
	workerCount atomic.Int32 // started so far
}

// Deploy deploys a database and its poolers and waits until all are ready.
func Deploy(ctx context.Context, l *lab.Lab, o Options) (*Database, error) {
	d := &Database{Options: o.withDefaults(), lab: l}
	if err := d.deployPostgres(ctx); err != nil {
		return nil, fmt.Errorf("deploy PostgreSQL: %w", err)
	}
	return d, d.complete(ctx)
}

// InFront deploys poolers in front of a server that accepts connections, in its namespace, and waits until they are ready.
func InFront(ctx context.Context, l *lab.Lab, o Options, server Server) (*Database, error) {
	d := &Database{Options: o.withDefaults(), lab: l, server: server}
	return d, d.complete(ctx)
}

// Alone returns a server without poolers and clients, in its namespace.
func Alone(l *lab.Lab, namespace string, server Server) *Database {
	return &Database{Options: Options{Namespace: namespace}.withDefaults(), lab: l, server: server}
}

// complete makes the workers' table and the poolers.
func (d *Database) complete(ctx context.Context) error {
	// No constraint forbids two rows of one transaction: the comparison must be able to see them.
	if err := d.execWhenReady(ctx, "CREATE TABLE commits (worker int NOT NULL, n bigint NOT NULL)"); err != nil {
		return fmt.Errorf("make the workers' table: %w", err)
	}
	if err := d.deployPoolers(ctx); err != nil {
		return fmt.Errorf("deploy the poolers: %w", err)
	}
	return nil
}

func (d *Database) deployPostgres(ctx context.Context) error {
	if err := d.apply(ctx, "database.yaml", d.Options); err != nil {
		return err
	}
	pods, err := d.awaitReady(ctx, labels.Set{"app": "postgres"}, 1)
	if err != nil {
		return err
	}
	service, err := d.lab.Client().CoreV1().Services(d.Namespace).Get(ctx, "postgres", metav1.GetOptions{})
	if err != nil {
		return err
	}
	address := pods[0].Status.PodIP
	d.server = Server{Host: service.Spec.ClusterIP, Primary: func(context.Context) (string, error) { return address, nil }}
	return nil
}

// execWhenReady runs SQL as soon as PostgreSQL accepts it. PostgreSQL listens earlier than that.
func (d *Database) execWhenReady(ctx context.Context, sql string) error {
	for {
		_, err := d.Query(ctx, sql)
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != cannotConnectNow {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

func (d *Database) deployPoolers(ctx context.Context) error {
	if d.Labels == nil {
		err := d.apply(ctx, "poolers.yaml", struct {
			Options
			AdminUser, AdminPassword, Host string
		}{d.Options, AdminUser, AdminPassword, d.server.Host})
		if err != nil {
			return err
		}
	}
	_, err := d.awaitReady(ctx, d.poolerLabels(), d.Options.Poolers)
	return err
}

func (d *Database) poolerLabels() labels.Set {
	if d.Labels == nil {
		return PoolerLabels
	}
	return d.Labels
}

// PoolerLabels are the labels of the poolers' pods.
var PoolerLabels = labels.Set{"app.kubernetes.io/name": "pgbouncer"}

func (d *Database) apply(ctx context.Context, name string, values any) error {
	return Apply(ctx, d.lab, templates, name, values)
}

// awaitReady waits until exactly n pods with these labels are ready.
func (d *Database) awaitReady(ctx context.Context, of labels.Set, n int) ([]corev1.Pod, error) {
	return AwaitReady(ctx, d.lab, d.Namespace, of, n)
}

// Remove deletes the namespace, with grace periods of one second.
func (d *Database) Remove(ctx context.Context) error {
	core := d.lab.Client().CoreV1()
	if err := core.Namespaces().Delete(ctx, d.Namespace, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("remove the database: %w", err)
	}
	// The namespace controller would give each pod its whole grace period. No new pod can be created from now on.
	soon := int64(1)
	err := core.Pods(d.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &soon}, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("stop the database: %w", err)
	}
	return nil
}

// PoolerPods returns the poolers' pods, in any state.
func (d *Database) PoolerPods(ctx context.Context) ([]corev1.Pod, error) {
	return d.pods(ctx, d.poolerLabels())
}

func (d *Database) pods(ctx context.Context, of labels.Set) ([]corev1.Pod, error) {
	return podsOf(ctx, d.lab, d.Namespace, of)
}

// Rows returns the committed transactions of each worker.
func (d *Database) Rows(ctx context.Context) (map[int][]int64, error) {
	rows, err := d.Query(ctx, "SELECT worker, n FROM commits")
	if err != nil {
		return nil, fmt.Errorf("read the committed transactions: %w", err)
	}
	committed := map[int][]int64{}
	for _, row := range rows {
		worker, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(string(row[1]), 10, 64)
		if err != nil {
			return nil, err
		}
		committed[worker] = append(committed[worker], n)
	}
	return committed, nil
}

// Query runs SQL in the primary directly, not through a pooler. It returns the rows of the first statement.
func (d *Database) Query(ctx context.Context, sql string) ([][][]byte, error) {
	address, err := d.server.Primary(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the primary: %w", err)
	}
	return Query(ctx, address, sql)
}

// Query runs SQL in the server at this address. It returns the rows of the first statement.
func Query(ctx context.Context, address, sql string) ([][][]byte, error) {
	connection, err := pgconn.Connect(ctx, fmt.Sprintf("postgres://postgres@%s:5432/postgres?sslmode=disable", address))
	if err != nil {
		return nil, err
	}
	defer connection.Close(context.WithoutCancel(ctx))
	results, err := connection.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	return results[0].Rows, nil
}
