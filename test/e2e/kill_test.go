package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

const (
	// killSeeds is how many drains are killed in a plain test. KILLS overrides it; KILL_SEED=n repeats the drain of seed n.
	killSeeds = 3
	// killStream selects a random stream whose first seeds differ in what they do.
	killStream = 2
	// parallelKills is how many drains run at once. They mostly wait for a message that is hidden for a minute.
	parallelKills = 10
	// killedTimeout is the function's timeout. If the function dies before it shortens the visibility timeout, the queue hides
	// the message for this long.
	killedTimeout = time.Minute
	// longestStop is the longest time that a pod takes to stop.
	longestStop = 4 * time.Second
	// killWindow is how long after a log message the function is killed, at most: some requests later.
	killWindow = 30 * time.Millisecond
)

// logMessages are the messages that a drain logs; the empty one stands for its start. Most of its actions are close to one of
// them.
var logMessages = []string{"", "node cordoned", "phase started", "pod evicted", "pod gone", "phase complete", "lifecycle action completed"}

// moment is when a function is killed: delay after it logged the message, or after it received its event.
type moment struct {
	message string
	delay   time.Duration
}

func (m moment) String() string {
	return fmt.Sprintf("%v after %q", m.delay.Round(time.Millisecond), m.message)
}

// randomMoment returns a moment between the start and the end of a drain whose slowest pod takes longest to stop.
func randomMoment(random *rand.Rand, longest time.Duration) moment {
	if word := logMessages[random.IntN(len(logMessages))]; word != "" {
		return moment{word, time.Duration(random.Int64N(int64(killWindow)))}
	}
	return moment{"", time.Duration(random.Int64N(int64(longest + time.Second/4)))}
}

// A function can die at any moment: its host fails, or it runs out of memory or time. Another invocation then finishes the drain,
// and nothing is done twice.
func TestKill_AnyPoint_NextInvocationFinishes(t *testing.T) {
	on := sharedEnv(t)
	seeds, kills := killSeedsFor(t), 0
	for chunk := range slices.Chunk(seeds, parallelKills) {
		drains := make([]*killedDrain, len(chunk))
		for n, seed := range chunk {
			drains[n] = newKilledDrain(t, on, seed)
		}
		var group sync.WaitGroup
		for _, k := range drains {
			k.deliver(1)
			group.Go(k.kill)
		}
		group.Wait()
		for _, k := range drains {
			k.requireDrained()
			kills += len(k.done)
		}
	}
	t.Logf("%d drains, %d kills", len(seeds), kills)
	require.True(t, kills > 0 || len(seeds) == 1, "every drain ended before its kill")
}

func killSeedsFor(t *testing.T) []uint64 {
	if seed := envInt(t, "KILL_SEED", 0); seed > 0 {
		return []uint64{uint64(seed)}
	}
	seeds := make([]uint64, envInt(t, "KILLS", killSeeds))
	for n := range seeds {
		seeds[n] = uint64(n + 1)
	}
	return seeds
}

// envInt returns the value of an environment variable, or the default.
func envInt(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, variable)
	return n
}

// killedDrain is a drain whose function is killed. The seed decides the moments and the pods.
type killedDrain struct {
	*queueFixture
	seed    uint64
	target  env.Instance
	pods    []corev1.Pod
	moments []moment // one per delivery

	mu   sync.Mutex
	done []string // the kills that came before the end, each with the function's last log message
}

func newKilledDrain(t *testing.T, on *env.Env, seed uint64) *killedDrain {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, killStream))
	k := &killedDrain{queueFixture: newQueueFixtureOn(t, on, 2, 1, env.Settings{Timeout: killedTimeout}), seed: seed}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, killed %v; again: KILL_SEED=%d go test -race -run %s ./test/e2e", seed, k.done, seed, t.Name())
		}
	})
	k.target = k.instances[0]
	longest := time.Duration(0)
	for n := range 2 + random.IntN(4) {
		stops := time.Duration(random.Int64N(int64(longestStop))).Truncate(time.Millisecond)
		k.runPodOn(k.target, fmt.Sprint("pod-", n), stopsAfter(fmt.Sprintf("%dms", stops.Milliseconds())))
		longest = max(longest, stops)
	}
	k.runPodOn(k.instances[1], "bystander")
	k.pods = k.podsOn(k.target)
	for range 1 + random.IntN(4)/3 { // a quarter of the drains are killed twice
		k.moments = append(k.moments, randomMoment(random, longest))
	}
	k.send(k.terminate(k.target).Body)
	return k
}

// kill kills the function at its moments, except those after the end of the drain.
func (k *killedDrain) kill() {
	for n, m := range k.moments {
		said := len(k.function.Output())
		here := k.waitUntil(func() bool { return k.receives() > n }) && k.waitUntil(func() bool {
			return strings.Contains(k.function.Output()[said:], fmt.Sprintf("%q", m.message)) || m.message == ""
		})
		if !here {
			return
		}
		select {
		case <-time.After(m.delay): // the seed decides, whatever the function does
		case <-k.ctx.Done():
		}
		if k.receives() == 0 {
			return
		}
		k.function.Kill()
		k.recordKill(m)
	}
}

// receives returns how often the message was delivered; 0: not yet, or the message is deleted.
func (k *killedDrain) receives() int {
	for _, m := range k.messages() {
		return m.Receives
	}
	return 0
}

// waitUntil waits for a condition and reports whether it became true before the message was deleted.
func (k *killedDrain) waitUntil(holds func() bool) bool {
	for !holds() {
		if len(k.messages()) == 0 {
			return false
		}
		select {
		case <-k.ctx.Done():
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// recordKill records the kill and the function's last log message.
func (k *killedDrain) recordKill(m moment) {
	last := "nothing"
	for text := range strings.Lines(k.function.Output()) {
		if _, after, found := strings.Cut(text, `"msg":"`); found {
			last, _, _ = strings.Cut(after, `"`)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done = append(k.done, fmt.Sprintf("%v, last log message %q", m, last))
}

// requireDrained checks the promise: killed at any point, a later invocation finishes the drain.
func (k *killedDrain) requireDrained() {
	k.Helper()
	k.awaitEmptyQueue()
	k.Logf("seed %d: %d pods, killed %v", k.seed, len(k.pods), k.done)
	require.Empty(k, k.AWS.Messages(k.queue.DLQ))
	k.requireDrainedOnce(k.target, k.pods)
	require.Len(k, k.podsOn(k.instances[1]), 1)
	k.requireUntouched(k.instances[1])
}

// requireDrainedOnce requires that the action was completed once and in time, that each of these pods was evicted once and is
// gone, that the node was cordoned before and stays so, and that the instance's Lease is free.
func (p *queueFixture) requireDrainedOnce(target env.Instance, pods []corev1.Pod) {
	p.Helper()
	p.requireCompletedOnce(target)
	require.False(p, p.AWS.Expired(target.ID))
	require.Empty(p, p.podsOn(target))
	requests := p.allRequests()
	closed := slices.IndexFunc(requests, func(r lab.Request) bool {
		return r.Verb == "patch" && r.Resource == "nodes" && r.Name == target.Node && r.Code == http.StatusOK
	})
	require.GreaterOrEqual(p, closed, 0, "the node was not cordoned")
	for _, pod := range pods {
		requireEvictedOnce(p, requests[closed:], pod.Name)
		require.Zero(p, acceptedEvictions(requests[:closed])[pod.Name], "before the node was cordoned")
	}
	p.requireCordoned(target)
	p.until("the Lease is free", func() (bool, error) { return p.isLeaseFree(target) })
}

// allRequests returns the requests of all functions to the API server, in order of arrival.
func (p *queueFixture) allRequests() []lab.Request {
	p.Helper()
	users := make([]string, len(p.functions))
	for n, f := range p.functions {
		users[n] = f.User
	}
	requests, err := p.Lab.Audit().By(users...)
	require.NoError(p, err)
	return requests
}

// requireEvictedOnce requires that one eviction of the pod was accepted and that the pod was not deleted otherwise. If the client
// was gone before the answer, the server may have done what it then logs as a failure.
func requireEvictedOnce(t require.TestingT, requests []lab.Request, pod string) {
	accepted, unanswered := 0, 0
	for _, r := range requests {
		switch {
		case r.Resource != "pods" || r.Name != pod:
		case r.Verb == "delete":
			require.Failf(t, "deleted", "%s: %+v", pod, r)
		case r.Subresource == "eviction" && r.Code == http.StatusCreated:
			accepted++
		case r.Subresource == "eviction" && r.Code != http.StatusTooManyRequests:
			unanswered++
		}
	}
	require.LessOrEqual(t, accepted, 1, "%s was evicted twice", pod)
	require.Positive(t, accepted+unanswered, "%s was not evicted", pod)
}

// requireUntouched requires that the node is schedulable and has neither our annotation nor our taint.
func (s *fixture) requireUntouched(i env.Instance) {
	s.Helper()
	node := s.node(i)
	require.False(s, node.Spec.Unschedulable)
	require.NotContains(s, node.Annotations, terminationKey)
	require.False(s, hasTaint(node, taintKey))
	require.Equal(s, "InService", s.AWS.State(i.ID))
}

// isLeaseFree reports whether the instance's Lease does not exist, has no holder or has expired.
func (s *fixture) isLeaseFree(i env.Instance) (bool, error) {
	lease, err := s.Lab.Client().CoordinationV1().Leases("quiesce").Get(s.ctx, i.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return lease.Spec.HolderIdentity == nil || time.Since(lease.Spec.RenewTime.Time) > time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second, nil
}
