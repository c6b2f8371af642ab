package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"

	"quiesce/internal/termination"
	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
)

const (
	// loadTimeout is the heartbeat timeout of a group under load: short, so that in the long form instances wait longer than that
	// for their turn, and longer than any stall of a busy machine.
	loadTimeout = time.Minute
	// sweepEvery is how often the group is swept: six times per loadTimeout, where the stack sweeps five times per usual timeout.
	sweepEvery = 10 * time.Second
	// loadWait bounds waits for 100 nodes.
	loadWait = 10 * time.Minute
	// remainingNodes is how many nodes are not terminated.
	remainingNodes = 2
)

// load is how many nodes terminate at once, how many pods each has, and how many are drained at once.
type load struct {
	nodes, pods, concurrency int
	stop                     string // how long a pod takes to stop
}

// isLong reports whether the long forms are requested: LOAD=long, as `make soak` sets it.
func isLong() bool { return os.Getenv("LOAD") == "long" }

func loadSizes() []load {
	if isLong() {
		return []load{{100, 30, 100, "5s"}, {100, 30, 10, "5s"}}
	}
	return []load{{12, 8, 12, "1s"}, {12, 8, 3, "1s"}}
}

// newLoadFixture makes a fixture with this many nodes and functions. The long form has an environment of its own, so that other
// tests do not disturb the measurement.
func newLoadFixture(t *testing.T, nodes, functions int) *queueFixture {
	t.Helper()
	set := sharedEnv
	if isLong() {
		set = ownEnv
	}
	p := newQueueFixtureOn(t, set(t), nodes, functions, env.Settings{})
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook, HeartbeatTimeout: loadTimeout})
	return p
}

// In an instance refresh, a zone rebalance or a scale-in to zero, all events come at once, and every hook's clock starts at that
// moment.
func TestLoad_ManyNodesAtOnce_EachDrainedOnce(t *testing.T) {
	for _, l := range loadSizes() {
		t.Run(fmt.Sprintf("%d-nodes-%d-at-once", l.nodes, l.concurrency), func(t *testing.T) {
			p := newLoadFixture(t, l.nodes, l.concurrency)
			p.populate(l)
			swept := p.sweepRepeatedly()
			events := p.terminateAll()
			began := time.Now()
			p.send(events...)
			p.deliver(1)
			p.within(loadWait, "every message is deleted", func() (bool, error) { return len(p.messages()) == 0, nil })
			took := time.Since(began)
			sweeps := swept()

			p.requireAllDrainedOnce()
			require.Empty(t, p.AWS.Messages(p.queue.DLQ))
			require.NotEmpty(t, sweeps)
			for _, r := range sweeps {
				require.Empty(t, r.Errors)
				require.Zero(t, r.EventsResent, "no event was lost")
			}
			requests := p.allRequests()
			p.requireTaintedBeforeFirstEviction(requests)
			p.logLoad(l, began, took, requests, sweeps)
		})
	}
}

// populate runs the pods of one app on the nodes to terminate, and then adds the remaining nodes.
func (p *queueFixture) populate(l load) {
	p.Helper()
	replicas := int32(l.nodes * l.pods)
	p.create("web", replicas, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.StopAfter: l.stop}
	})
	p.within(loadWait, "web is ready", func() (bool, error) { return p.isReady("web", replicas) })
	_, err := p.Launch(p.ctx, p.group, remainingNodes)
	require.NoError(p, err)
}

// terminateAll makes Auto Scaling terminate all instances of the fixture and returns the events.
func (p *queueFixture) terminateAll() (events [][]byte) {
	p.Helper()
	for _, i := range p.instances {
		events = append(events, p.terminate(i).Body)
	}
	return events
}

// sweepRepeatedly sweeps until the returned function is called, which returns the reports.
func (p *queueFixture) sweepRepeatedly() (end func() []termination.SweepReport) {
	p.Helper()
	f := p.start("autoScalingGroups: [\""+p.group+"\"]\nmode: drain\n", p.queue.Environment()...)
	event := read(p.T, "sweep")
	var reports []termination.SweepReport
	var failed error
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			result, err := f.Invoke(p.ctx, event)
			var r termination.SweepReport
			switch {
			case err != nil:
			case result.ErrorType != "":
				err = fmt.Errorf("%s: %s", result.ErrorType, result.Payload)
			default:
				err = json.Unmarshal(result.Payload, &r)
			}
			if failed = err; err != nil {
				return
			}
			reports = append(reports, r)
			select {
			case <-stop:
				return
			case <-time.After(sweepEvery):
			}
		}
	}()
	return func() []termination.SweepReport {
		p.Helper()
		close(stop)
		<-stopped
		require.NoError(p, failed)
		return reports
	}
}

// requireAllDrainedOnce requires that every action was completed exactly once, that no hook expired, and that no pod remains.
func (p *queueFixture) requireAllDrainedOnce() {
	p.Helper()
	for _, i := range p.instances {
		p.requireCompletedOnce(i)
		require.False(p, p.AWS.Expired(i.ID))
		require.Empty(p, p.podsOn(i))
	}
	drained := map[string]int{}
	for _, l := range p.logLines("event handled") {
		if l.Report.Status == termination.StatusDrained {
			drained[l.Report.InstanceID]++
		}
	}
	require.Len(p, drained, len(p.instances), "each is reported as drained")
}

// requireTaintedBeforeFirstEviction requires that all terminating nodes were cordoned or tainted before the first eviction, so
// that no pod moved to one of them.
func (p *queueFixture) requireTaintedBeforeFirstEviction(requests []lab.Request) {
	p.Helper()
	first := slices.IndexFunc(requests, func(r lab.Request) bool { return r.Subresource == "eviction" })
	require.GreaterOrEqual(p, first, 0)
	closed := map[string]bool{}
	for _, r := range requests {
		if isNodePatch(r) && r.Done.Before(requests[first].Time) {
			closed[r.Name] = true
		}
	}
	for _, i := range p.instances {
		require.True(p, closed[i.Node], "node %s", i.Node)
	}
}

// isNodePatch reports whether a node was cordoned or tainted, the only patches of a terminating node.
func isNodePatch(r lab.Request) bool {
	return r.Verb == "patch" && r.Resource == "nodes" && r.Code == 200
}

// logLoad logs the measurements.
func (p *queueFixture) logLoad(l load, began time.Time, took time.Duration, requests []lab.Request, sweeps []termination.SweepReport) {
	p.Helper()
	kinds, refused, conflicts := map[string]int{}, 0, 0
	nodes, evictions := map[string]time.Duration{}, 0
	for _, r := range requests {
		kind := r.Verb + " " + strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/")
		kinds[kind]++
		switch {
		case r.Subresource == "eviction" && r.Code == 201:
			evictions++
		case isNodePatch(r):
			if _, known := nodes[r.Name]; !known {
				nodes[r.Name] = r.Done.Sub(began)
			}
		case r.Code == 429:
			refused++
		case r.Code == 409:
			conflicts++
		}
	}
	closed := slices.Sorted(func(yield func(time.Duration) bool) {
		for _, at := range nodes {
			if !yield(at) {
				return
			}
		}
	})
	heartbeats, swept, sweepErrors := 0, 0, 0
	for _, i := range p.instances {
		heartbeats += len(p.AWS.Heartbeats(i.ID))
	}
	for _, r := range sweeps {
		swept += r.Heartbeats
		sweepErrors += len(r.Errors)
	}
	var peak int64
	throttled := 0
	for _, f := range p.functions {
		peak = max(peak, f.MaxRSS())
		throttled += strings.Count(f.Output(), "client-side throttling")
	}
	require.Zero(p, throttled, "no client paces itself")
	p.Logf("%d nodes x %d pods, %d at once: %.1f s; %d requests, %.1f a node beside evictions; %d evictions accepted of %d pods; "+
		"%d answered 429, %d 409; throttled by the client: %d; completed once: %d; handed off: %d; heartbeats: %d, %d of them by %d sweeps, which had %d errors; "+
		"first and last node closed or tainted after %.2f and %.2f s; most resident %d MiB; %v",
		l.nodes, l.pods, l.concurrency, took.Seconds(), len(requests),
		float64(len(requests)-kinds["create pods/eviction"])/float64(l.nodes), evictions, l.nodes*l.pods,
		refused, conflicts, throttled, len(p.instances), len(p.logLines(handedOff)), heartbeats, swept, len(sweeps), sweepErrors,
		closed[0].Seconds(), closed[len(closed)-1].Seconds(), peak>>20, kinds)
}

// burst is how many messages come at once, about how many instances, and how many invocations run at once.
type burst struct{ messages, instances, concurrency int }

func burstSize() burst {
	if isLong() {
		return burst{1000, 50, 100}
	}
	return burst{150, 4, 6}
}

// malformedSamples are messages that can never be processed.
var malformedSamples = []string{
	"malformed-no-instance-id", "malformed-instance-id", "malformed-no-token", "malformed-time", "malformed-detail", "malformed-shape",
	"malformed-action", "malformed-drain", "malformed-plan", "malformed-unknown-key",
}

// foreignSamples are messages that are not ours.
var foreignSamples = []string{
	"terminate-other-group", "terminate-other-hook", "terminate-successful", "launch", "hook-test-notification", "hook-launch-notification",
	"spot-interruption",
}

// Deliveries are repeated, a broad rule sends foreign events, and a broken script sends junk. No instance may miss its drain for
// that, and nothing malformed may get lost.
func TestLoad_BurstWithDuplicatesAndJunk_NothingLost(t *testing.T) {
	b := burstSize()
	p := newLoadFixture(t, b.instances, b.concurrency)
	for n, i := range p.instances {
		p.runPodOn(i, fmt.Sprint("pod-", n), stopsAfter("1s"))
	}
	messages, bad := p.mix(b)
	began := time.Now()
	p.send(messages...)
	p.deliver(1)
	p.within(loadWait, "every message is deleted", func() (bool, error) { return len(p.messages()) == 0, nil })
	took := time.Since(began)

	p.requireAllDrainedOnce()
	deadLetters := p.AWS.Messages(p.queue.DLQ)
	require.Len(t, deadLetters, len(bad))
	for _, deadLetter := range deadLetters {
		require.NotEmpty(t, deadLetter.Attributes["reason"])
		at := slices.Index(bad, deadLetter.Body)
		require.GreaterOrEqual(t, at, 0, "%s", deadLetter.Body)
		bad = slices.Delete(bad, at, at+1)
	}
	require.Empty(t, bad, "each is there as often as it came")
	require.Empty(t, p.logLines(failedEvent))
	accepted := acceptedEvictions(p.allRequests())
	require.Len(t, accepted, b.instances)
	for pod, times := range accepted {
		require.Equal(t, 1, times, "%s is evicted once", pod)
	}
	waited, most := 0, 0
	for _, l := range p.logLines("event handled") {
		most = max(most, l.Receives)
		if strings.Contains(l.Report.Reason, "another invocation") {
			waited++
		}
	}
	t.Logf("%d messages, %d at once: %.1f s; %d instances completed once; %d messages in the DLQ; %d deliveries found another invocation draining; "+
		"most deliveries of one message: %d; requests of Kubernetes: %d",
		b.messages, b.concurrency, took.Seconds(), b.instances, len(deadLetters), waited, most, len(p.allRequests()))
}

// mix returns the burst in a fixed random order, and the messages that must end in the dead-deadLetter queue.
func (p *queueFixture) mix(b burst) (messages [][]byte, bad []string) {
	p.Helper()
	genuine := p.terminateAll()
	messages = slices.Clone(genuine) // each at least once
	for n := range b.messages - len(messages) {
		switch n % 10 {
		case 0:
			messages = append(messages, read(p.T, malformedSamples[n/10%len(malformedSamples)]))
			bad = append(bad, string(messages[len(messages)-1]))
		case 1:
			messages = append(messages, fmt.Appendf(nil, "junk %d", n))
			bad = append(bad, string(messages[len(messages)-1]))
		case 2, 3:
			messages = append(messages, read(p.T, foreignSamples[n/10%len(foreignSamples)]))
		default:
			messages = append(messages, genuine[n%len(genuine)])
		}
	}
	rand.New(rand.NewPCG(6, 8)).Shuffle(len(messages), func(a, b int) { messages[a], messages[b] = messages[b], messages[a] })
	return messages, bad
}
