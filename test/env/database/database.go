// Package database deploys PostgreSQL, pgbouncers behind a Service, and workers that run transactions through them, on a lab's
// real nodes. It compares the transactions that the workers recorded with those that the database has.
package database

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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

	pollInterval = 50 * time.Millisecond // between checks of pods that take seconds to start
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

	Poolers        int    // default DefaultPoolers, each on a node of its own
	Daemon         bool   // run as a DaemonSet: one pooler on each node of Group
	Together       bool   // on one node if possible
	PoolMode       string // default transaction
	AuthType       string // default scram-sha-256
	Grace          int    // seconds; default 30
	PreStop        string // a shell command; default none
	MaxUnavailable string // of their PDB; default 1
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
	return o
}

// Database is a running database with its poolers and workers.
type Database struct {
	Options
	lab           *lab.Lab
	address       string       // of PostgreSQL
	workerCount   atomic.Int32 // started so far
	manifestCount atomic.Int32 // written so far
}

// Deploy deploys a database and its poolers and waits until all are ready.
func Deploy(ctx context.Context, l *lab.Lab, o Options) (*Database, error) {
	d := &Database{Options: o.withDefaults(), lab: l}
	if err := d.deployPostgres(ctx); err != nil {
		return nil, fmt.Errorf("deploy PostgreSQL: %w", err)
	}
	if err := d.deployPoolers(ctx); err != nil {
		return nil, fmt.Errorf("deploy the poolers: %w", err)
	}
	return d, nil
}

func (d *Database) deployPostgres(ctx context.Context) error {
	if err := d.apply(ctx, "database.yaml", d.Options); err != nil {
		return err
	}
	pods, err := d.awaitReady(ctx, labels.Set{"app": "postgres"}, 1)
	if err != nil {
		return err
	}
	d.address = pods[0].Status.PodIP
	// No constraint forbids two rows of one transaction: the comparison must be able to see them.
	return d.execWhenReady(ctx, "CREATE TABLE commits (worker int NOT NULL, n bigint NOT NULL)")
}

// execWhenReady runs SQL as soon as PostgreSQL accepts it. PostgreSQL listens earlier than that.
func (d *Database) execWhenReady(ctx context.Context, sql string) error {
	for {
		_, err := d.query(ctx, sql)
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
	service, err := d.lab.Client().CoreV1().Services(d.Namespace).Get(ctx, "postgres", metav1.GetOptions{})
	if err != nil {
		return err
	}
	err = d.apply(ctx, "poolers.yaml", struct {
		Options
		AdminUser, AdminPassword, PostgresIP string
	}{d.Options, AdminUser, AdminPassword, service.Spec.ClusterIP})
	if err != nil {
		return err
	}
	_, err = d.awaitReady(ctx, PoolerLabels, d.Options.Poolers)
	return err
}

// PoolerLabels are the labels of the poolers' pods.
var PoolerLabels = labels.Set{"app.kubernetes.io/name": "pgbouncer"}

func (d *Database) apply(ctx context.Context, name string, values any) error {
	var manifest bytes.Buffer
	if err := templates.ExecuteTemplate(&manifest, name, values); err != nil {
		return err
	}
	path := d.lab.Path(fmt.Sprintf("%s-%d-%s", d.Namespace, d.manifestCount.Add(1), name))
	if err := os.WriteFile(path, manifest.Bytes(), 0o600); err != nil {
		return err
	}
	return d.lab.Apply(ctx, path)
}

// awaitReady waits until exactly n pods with these labels are ready.
func (d *Database) awaitReady(ctx context.Context, of labels.Set, n int) (pods []corev1.Pod, err error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if pods, err = d.pods(ctx, of); err == nil && len(readyOf(pods)) == n {
			return readyOf(pods), nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%d of %d pods %s are ready (%s): %w",
				len(readyOf(pods)), n, of, Describe(pods), context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
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
	return d.pods(ctx, PoolerLabels)
}

func (d *Database) pods(ctx context.Context, of labels.Set) ([]corev1.Pod, error) {
	list, err := d.lab.Client().CoreV1().Pods(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: of.String()})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func readyOf(pods []corev1.Pod) (ready []corev1.Pod) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil && IsReady(p) {
			ready = append(ready, p)
		}
	}
	return ready
}

// Describe returns the pods' states and, as far as their kubelets report it, why they are not ready.
func Describe(pods []corev1.Pod) string {
	var text strings.Builder
	for _, p := range pods {
		fmt.Fprintf(&text, "%s on %q: %s %s", p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Message)
		for _, c := range p.Status.Conditions {
			if c.Status != corev1.ConditionTrue {
				fmt.Fprintf(&text, ", not %s %s %s", c.Type, c.Reason, c.Message)
			}
		}
		for _, c := range p.Status.ContainerStatuses {
			fmt.Fprintf(&text, ", restarted %d times, %s, before that %s", c.RestartCount, describeState(c.State), describeState(c.LastTerminationState))
		}
		text.WriteString("; ")
	}
	return strings.TrimSuffix(text.String(), "; ")
}

func describeState(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return fmt.Sprintf("waiting: %s %s", s.Waiting.Reason, s.Waiting.Message)
	case s.Terminated != nil:
		return fmt.Sprintf("ended with %d: %s %s", s.Terminated.ExitCode, s.Terminated.Reason, s.Terminated.Message)
	case s.Running != nil:
		return "running"
	}
	return "nothing"
}

// IsReady reports whether a pod has the condition Ready.
func IsReady(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Rows returns the committed transactions of each worker.
func (d *Database) Rows(ctx context.Context) (map[int][]int64, error) {
	rows, err := d.query(ctx, "SELECT worker, n FROM commits")
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

// query runs SQL in PostgreSQL directly, not through a pooler.
func (d *Database) query(ctx context.Context, sql string) ([][][]byte, error) {
	connection, err := pgconn.Connect(ctx, fmt.Sprintf("postgres://postgres@%s:5432/postgres?sslmode=disable", d.address))
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
