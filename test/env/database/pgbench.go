package database

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// pgbenchClients is the number of pgbench's clients, each with one connection to a pooler.
	pgbenchClients = 10
	// pgbenchRate is how many transactions a second they start together: each client is busy, and two cores are left for the cluster.
	// What a pause has delayed is made up for afterwards.
	pgbenchRate = 100
	// pgbenchScale is the size of the database, in 15 MB: small enough that a new replica is there in seconds.
	pgbenchScale = 2
	// pgbenchLimit is longer than any test: pgbench ends when it is told to, and only a pgbench with a limit can be told.
	pgbenchLimit = 24 * time.Hour
	// pgbenchInterval is the time between checks of a pgbench that starts or ends within a second.
	pgbenchInterval = 200 * time.Millisecond
)

// Pgbench is a pod with pgbench, which runs its TPC-B-like transactions through the poolers' Service
// (https://www.postgresql.org/docs/15/pgbench.html).
type Pgbench struct{ db *Database }

// PgbenchResult is what pgbench reports when it ends.
type PgbenchResult struct {
	Processed int    // transactions committed
	Failed    int    // transactions that failed
	Aborted   int    // clients that gave up after an error, as each does at its first
	Rows      int    // transactions in the database, read from the primary
	Log       string // what pgbench printed
}

// StartPgbench starts pgbench in a pod of this image and waits until it has committed its first transaction.
func (d *Database) StartPgbench(ctx context.Context, image string) (*Pgbench, error) {
	err := d.apply(ctx, "pgbench.yaml", struct {
		Options
		Image                         string
		Scale, Clients, Rate, Seconds int
	}{d.Options, image, pgbenchScale, pgbenchClients, pgbenchRate, int(pgbenchLimit.Seconds())})
	if err != nil {
		return nil, fmt.Errorf("start pgbench: %w", err)
	}
	p := &Pgbench{db: d}
	for {
		if rows, err := p.rows(ctx); err == nil && rows > 0 {
			return p, nil
		}
		pod, err := p.pod(ctx)
		if err != nil {
			return nil, fmt.Errorf("start pgbench: %w", err)
		}
		if hasEnded(pod) {
			return nil, fmt.Errorf("pgbench ended at its start: %s\n%s", Describe([]corev1.Pod{pod}), p.log(ctx))
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("pgbench does not begin: %w: %s\n%s", err, Describe([]corev1.Pod{pod}), p.log(context.WithoutCancel(ctx)))
		}
	}
}

// Finish ends pgbench and returns its results. Its timer's signal makes it finish its transactions and report.
func (p *Pgbench) Finish(ctx context.Context) (r PgbenchResult, err error) {
	// An error is no obstacle: pgbench ends by itself when all clients have aborted.
	_, told := p.db.lab.Kubectl(ctx, "--namespace", p.db.Namespace, "exec", "pgbench", "--", "sh", "-c", "kill -ALRM 1")
	for {
		pod, err := p.pod(ctx)
		if err != nil {
			return r, fmt.Errorf("finish pgbench: %w", err)
		}
		if hasEnded(pod) {
			break
		}
		if err := pause(ctx); err != nil {
			return r, fmt.Errorf("pgbench does not end: %w: told: %v, %s\n%s", err, told, Describe([]corev1.Pod{pod}), p.log(context.WithoutCancel(ctx)))
		}
	}
	if r, err = readPgbench(p.log(ctx)); err != nil {
		return r, err
	}
	r.Rows, err = p.rows(ctx)
	return r, err
}

func (p *Pgbench) pod(ctx context.Context) (corev1.Pod, error) {
	pods, err := p.db.pods(ctx, labels.Set{"app": "pgbench"})
	if err == nil && len(pods) != 1 {
		err = fmt.Errorf("there are %d pods of pgbench", len(pods))
	}
	if err != nil {
		return corev1.Pod{}, err
	}
	return pods[0], nil
}

func hasEnded(p corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// log returns what pgbench has printed so far, or why that is unknown.
func (p *Pgbench) log(ctx context.Context) string {
	said, err := p.db.lab.Client().CoreV1().Pods(p.db.Namespace).GetLogs("pgbench", &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return fmt.Sprintf("its log cannot be read: %v", err)
	}
	return string(said)
}

// rows returns how many of its transactions the primary has. Each adds one row.
func (p *Pgbench) rows(ctx context.Context) (int, error) {
	rows, err := p.db.Query(ctx, "SELECT count(*) FROM pgbench_history")
	if err != nil {
		return 0, fmt.Errorf("count pgbench's transactions: %w", err)
	}
	return strconv.Atoi(string(rows[0][0]))
}

var (
	processedLine = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	failedLine    = regexp.MustCompile(`number of failed transactions: (\d+)`)
	abortedLine   = regexp.MustCompile(`client (\d+) .*aborted`)
)

// readPgbench reads a report of pgbench.
func readPgbench(log string) (PgbenchResult, error) {
	r := PgbenchResult{Log: log}
	processed, failed := processedLine.FindStringSubmatch(log), failedLine.FindStringSubmatch(log)
	if processed == nil || failed == nil {
		return r, fmt.Errorf("pgbench ended without a report:\n%s", log)
	}
	r.Processed, _ = strconv.Atoi(processed[1]) // only digits
	r.Failed, _ = strconv.Atoi(failed[1])
	r.Aborted = len(abortedIn(log))
	return r, nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pgbenchInterval):
		return nil
	}
}

// Aborted returns how many clients have given up so far.
func (p *Pgbench) Aborted(ctx context.Context) (int, error) {
	said, err := p.db.lab.Client().CoreV1().Pods(p.db.Namespace).GetLogs("pgbench", &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the log of pgbench: %w", err)
	}
	return len(abortedIn(string(said))), nil
}

// abortedIn returns the clients that gave up, as a log says.
func abortedIn(log string) map[string]bool {
	aborted := map[string]bool{}
	for _, line := range abortedLine.FindAllStringSubmatch(log, -1) {
		aborted[line[1]] = true
	}
	return aborted
}
