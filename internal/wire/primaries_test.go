package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/postgres"
	"quiesce/test/parts/bubble"
)

// markedCluster has the marks of interrupted moves: of cluster demo in the namespace of each.
type markedCluster struct {
	postgres.Cluster
	mutex   sync.Mutex
	marks   map[string]string // by namespace
	resumed []string          // namespaces of poolers
}

func (c *markedCluster) Marks(context.Context, string) (marks []escort.Mark, err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for namespace, text := range c.marks {
		if text != "" {
			marks = append(marks, escort.Mark{Lease: namespace, Text: text})
		}
	}
	return marks, nil
}

func (c *markedCluster) AcquireMarkedLease(_ context.Context, name string) (escort.MarkedLease, error) {
	return markedLease{c, name}, nil
}

func (c *markedCluster) Inspect(_ context.Context, ref drain.Ref) (*escort.Pod, error) {
	return &escort.Pod{Pod: drain.Pod{Ref: ref}}, nil
}

func (c *markedCluster) RecordPodEvent(context.Context, drain.PodEvent) error { return nil }

type markedLease struct {
	c    *markedCluster
	name string
}

func (l markedLease) Mark() string {
	l.c.mutex.Lock()
	defer l.c.mutex.Unlock()
	return l.c.marks[l.name]
}

func (l markedLease) SetMark(_ context.Context, text string) error {
	l.c.mutex.Lock()
	defer l.c.mutex.Unlock()
	l.c.marks[l.name] = text
	return nil
}

func (markedLease) Lost() error    { return nil }
func (markedLease) Release() error { return nil }

// boundConsoles are those of a phase whose login is for one namespace.
type boundConsoles struct {
	postgres.PoolerConsoles
	namespace string
	failure   error // of its own poolers
	cluster   *markedCluster
}

func (c boundConsoles) Open(_ context.Context, p escort.Pod) (postgres.Console, error) {
	if p.Namespace != c.namespace {
		return nil, escort.ErrOtherNamespace
	}
	return boundConsole{c: c}, c.failure
}

type boundConsole struct {
	postgres.Console
	c boundConsoles
}

func (b boundConsole) Resume(context.Context, string) error {
	b.c.cluster.mutex.Lock()
	defer b.c.cluster.mutex.Unlock()
	b.c.cluster.resumed = append(b.c.cluster.resumed, b.c.namespace)
	return nil
}

func (boundConsole) Close() {}

// boundPhases returns a phase for each namespace, and a mark for each. That of namespace "gone" has a pooler that does not answer.
func boundPhases(namespaces ...string) (all Primaries, c *markedCluster) {
	c = &markedCluster{marks: map[string]string{}}
	for _, namespace := range namespaces {
		consoles := boundConsoles{namespace: namespace, cluster: c}
		if namespace == "gone" {
			consoles.failure = errors.New("no answer")
		}
		all = append(all, &postgres.Escort{
			Connect:  func(context.Context) (postgres.Cluster, error) { return c, nil },
			Consoles: consoles, Log: slog.New(slog.DiscardHandler),
		})
		c.marks[namespace] = fmt.Sprintf(`{"namespace":%q,"cluster":"demo","since":%q,"poolers":[`+
			`{"Namespace":%q,"Name":"pooler","UID":"u","databases":["app"]}]}`, namespace, time.Now().Format(time.RFC3339), namespace)
	}
	return all, c
}

// Each phase has a login for its own namespace. A pooler of the third one is resumed, is resumed once more by each sweep while a command of the
// interrupted move may come late, and its mark is cleared then.
func TestPrimaries_SweepsOfSeveralPhases_EachIsReachedUntilAllMarksAreCleared(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		all, c := boundPhases("a", "b", "c")
		clusters, err := all.Resume(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a/demo", "b/demo", "c/demo"}, clusters)
		require.ElementsMatch(t, []string{"a", "b", "c"}, c.resumed)

		time.Sleep(time.Minute)
		clusters, err = all.Resume(t.Context())
		require.NoError(t, err)
		require.Empty(t, clusters, "it is said once")
		require.ElementsMatch(t, []string{"a", "b", "c", "a", "b", "c"}, c.resumed)

		time.Sleep(20 * time.Minute)
		_, err = all.Resume(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]string{"a": "", "b": "", "c": ""}, c.marks)
	})
}

// A pooler that no phase reaches is an error of the sweep, until it was resumed once.
func TestPrimaries_PoolerThatNoPhaseReaches_IsAnError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		all, _ := boundPhases("a", "gone")
		for range 2 {
			_, err := all.Resume(t.Context())
			require.ErrorContains(t, err, "still paused: gone/pooler")
		}
	})
}
