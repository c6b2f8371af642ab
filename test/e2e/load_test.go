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
	// loadTimeout is the heartbeat timeout of a group under load: short, so that in the long form those that wait for their turn
	// outlast it, and long enough that no busy machine stalls for as long.
	loadTimeout = time.Minute
	// sweepEvery is how often such a group is swept: six times in loadTimeout, where the stack sweeps five times in the usual one.
	sweepEvery = 10 * time.Second
	// loadPatience bounds what takes 100 nodes' time.
	loadPatience = 10 * time.Minute
	// refuges are the nodes that stay.
	refuges = 2
)

// load is how many nodes of how many pods go at once, and how many of them are drained at once.
type load struct {
	nodes, pods, concurrency int
	stop                     string // how long a pod takes to stop
}

// long tells whether the long forms are asked for: LOAD=long, as `make soak` sets.
func long() bool { return os.Getenv("LOAD") == "long" }

func loads() []load {
	if long() {
		return []load{{100, 30, 100, "5s"}, {100, 30, 10, "5s"}}
	}
	return []load{{12, 8, 12, "1s"}, {12, 8, 3, "1s"}}
}

// setLoad makes a post with nodes and as many functions as work at once: in the long form on a stage of its own, where nothing
// else is measured.
func setLoad(t *testing.T, nodes, functions int) *post {
	t.Helper()
	set := play
	if long() {
		set = ownStage
	}
	p := setPostOn(t, set(t), nodes, functions, env.Settings{})
	p.AWS.AddGroup(p.group, awstest.Hook{Name: env.Hook, HeartbeatTimeout: loadTimeout})
	return p
}

// An instance refresh, a zone that rebalances, a group that is scaled to nothing: the events come all at once, and each of the
// instances has a hook whose time runs from that moment on, whenever its turn comes.
func TestLoadOfManyNodesAtOnceIsDrainedEachOnce(t *testing.T) {
	for _, l := range loads() {
		t.Run(fmt.Sprintf("%d-nodes-%d-at-once", l.nodes, l.concurrency), func(t *testing.T) {
			p := setLoad(t, l.nodes, l.concurrency)
			p.populate(l)
			swept := p.sweepAllAlong()
			events := p.terminateAll()
			began := time.Now()
			p.send(events...)
			p.deliver(1)
			p.within(loadPatience, "every message is done with", func() (bool, error) { return len(p.messages()) == 0, nil })
			took := time.Since(began)
			sweeps := swept()

			p.eachDrainedOnce()
			require.Empty(t, p.AWS.Messages(p.queue.DLQ))
			for _, r := range sweeps {
				require.Zero(t, r.EventsResent, "no event was lost")
			}
			requests := p.allRequests()
			p.repelledBeforeTheFirstEviction(requests)
			p.tellLoad(l, began, took, requests, sweeps)
		})
	}
}

// populate has pods of one app run on the nodes, all of which are to go, and then adds those that stay.
func (p *post) populate(l load) {
	p.Helper()
	replicas := int32(l.nodes * l.pods)
	p.create("web", replicas, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{lab.StopAfter: l.stop}
	})
	p.within(loadPatience, "web is ready", func() (bool, error) { return p.isReady("web", replicas) })
	_, err := p.Launch(p.ctx, p.group, refuges)
	require.NoError(p, err)
}

// terminateAll has Auto Scaling take all instances of the scene at once, and returns the events.
func (p *post) terminateAll() (events [][]byte) {
	p.Helper()
	for _, i := range p.instances {
		events = append(events, p.terminate(i).Body)
	}
	return events
}

// sweepAllAlong sweeps until the returned function is called, which tells what the sweeps saw.
func (p *post) sweepAllAlong() (end func() []termination.SweepReport) {
	p.Helper()
	f := p.start("autoScalingGroups: [\""+p.group+"\"]\nmode: drain\n", p.queue.Environment()...)
	event := read(p.T, "sweep")
	var reports []termination.SweepReport
	var failed error
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(sweepEvery):
			}
			result, err := f.Invoke(p.ctx, event)
			var r termination.SweepReport
			if err == nil {
				err = json.Unmarshal(result.Payload, &r)
			}
			if failed = err; err != nil {
				return
			}
			reports = append(reports, r)
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

// eachDrainedOnce: nobody's action was completed twice or not at all, no hook ran out, no pod is left.
func (p *post) eachDrainedOnce() {
	p.Helper()
	for _, i := range p.instances {
		p.completedOnce(i)
		require.False(p, p.AWS.Expired(i.ID))
		require.Empty(p, p.podsOn(i))
	}
	drained := map[string]int{}
	for _, l := range p.said("done") {
		if l.Report.Status == termination.StatusDrained {
			drained[l.Report.InstanceID]++
		}
	}
	require.Len(p, drained, len(p.instances), "each is reported as drained")
}

// repelledBeforeTheFirstEviction: no pod left its node before all nodes that are to go were closed or tainted, so that none could
// come to the next of them.
func (p *post) repelledBeforeTheFirstEviction(requests []lab.Request) {
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

// isNodePatch: a node was cordoned or tainted; nothing else is ever written to one that is to go.
func isNodePatch(r lab.Request) bool {
	return r.Verb == "patch" && r.Resource == "nodes" && r.Code == 200
}

// tellLoad prints the figures.
func (p *post) tellLoad(l load, began time.Time, took time.Duration, requests []lab.Request, sweeps []termination.SweepReport) {
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
	beats, swept, faults := 0, 0, 0
	for _, i := range p.instances {
		beats += len(p.AWS.Heartbeats(i.ID))
	}
	for _, r := range sweeps {
		swept += r.Heartbeats
		faults += len(r.Errors)
	}
	var peak int64
	throttled := 0
	for _, f := range p.functions {
		peak = max(peak, f.MaxRSS())
		throttled += strings.Count(f.Output(), "client-side throttling")
	}
	require.Zero(p, throttled, "no client paces itself")
	p.Logf("%d nodes x %d pods, %d at once: %.1f s; %d requests, %.1f a node beside evictions; %d evictions accepted of %d pods; "+
		"%d answered 429, %d 409; throttled by the client: %d; completed once: %d; handed over: %d; heartbeats: %d, %d of them by %d sweeps, which had %d faults; "+
		"first and last node closed or tainted after %.2f and %.2f s; most resident %d MiB; %v",
		l.nodes, l.pods, l.concurrency, took.Seconds(), len(requests),
		float64(len(requests)-kinds["create pods/eviction"])/float64(l.nodes), evictions, l.nodes*l.pods,
		refused, conflicts, throttled, len(p.instances), len(p.said("handed over")), beats, swept, len(sweeps), faults,
		closed[0].Seconds(), closed[len(closed)-1].Seconds(), peak>>20, kinds)
}

// burst is how many messages come at once, about how many instances, and how many invocations there are at once.
type burst struct{ messages, instances, concurrency int }

func burstSize() burst {
	if long() {
		return burst{1000, 50, 100}
	}
	return burst{150, 4, 6}
}

// junk are messages that can never be processed.
var junk = []string{
	"malformed-no-instance-id", "malformed-instance-id", "malformed-no-token", "malformed-time", "malformed-detail", "malformed-shape",
	"malformed-action", "malformed-drain", "malformed-plan", "malformed-unknown-key",
}

// foreign are messages that are none of ours.
var foreign = []string{
	"terminate-other-group", "terminate-other-hook", "terminate-successful", "launch", "hook-test-notification", "hook-launch-notification",
	"spot-interruption",
}

// Deliveries are repeated, a rule that is too wide brings what is not ours, and somebody's script brings what is nothing at all:
// none of it may cost an instance its drain, or hide what was wrong.
func TestLoadOfABurstWithDuplicatesAndJunkLosesNothing(t *testing.T) {
	b := burstSize()
	p := setLoad(t, b.instances, b.concurrency)
	for n, i := range p.instances {
		p.podOn(i, fmt.Sprint("pod-", n), stopsAfter("1s"))
	}
	messages, bad := p.mix(b)
	began := time.Now()
	p.send(messages...)
	p.deliver(1)
	p.within(loadPatience, "every message is done with", func() (bool, error) { return len(p.messages()) == 0, nil })
	took := time.Since(began)

	p.eachDrainedOnce()
	letters := p.AWS.Messages(p.queue.DLQ)
	require.Len(t, letters, len(bad))
	for _, letter := range letters {
		require.NotEmpty(t, letter.Attributes["reason"])
		at := slices.Index(bad, letter.Body)
		require.GreaterOrEqual(t, at, 0, "%s", letter.Body)
		bad = slices.Delete(bad, at, at+1)
	}
	require.Empty(t, bad, "each is there as often as it came")
	require.Empty(t, p.said("not done"))
	accepted := acceptedEvictions(p.allRequests())
	require.Len(t, accepted, b.instances)
	for pod, times := range accepted {
		require.Equal(t, 1, times, "%s is signalled once", pod)
	}
	waited, most := 0, 0
	for _, l := range p.said("done") {
		most = max(most, l.Receives)
		if strings.Contains(l.Report.Reason, "another invocation") {
			waited++
		}
	}
	t.Logf("%d messages, %d at once: %.1f s; %d instances completed once; %d dead letters; %d deliveries found their instance owned; "+
		"most deliveries of one message: %d; requests of Kubernetes: %d",
		b.messages, b.concurrency, took.Seconds(), b.instances, len(letters), waited, most, len(p.allRequests()))
}

// mix is the burst in an order that is the same each time; bad are those of its messages that are to end as dead letters.
func (p *post) mix(b burst) (messages [][]byte, bad []string) {
	p.Helper()
	genuine := p.terminateAll()
	messages = slices.Clone(genuine) // each at least once
	for n := range b.messages - len(messages) {
		switch n % 10 {
		case 0:
			messages = append(messages, read(p.T, junk[n/10%len(junk)]))
			bad = append(bad, string(messages[len(messages)-1]))
		case 1:
			messages = append(messages, fmt.Appendf(nil, "junk %d", n))
			bad = append(bad, string(messages[len(messages)-1]))
		case 2, 3:
			messages = append(messages, read(p.T, foreign[n/10%len(foreign)]))
		default:
			messages = append(messages, genuine[n%len(genuine)])
		}
	}
	rand.New(rand.NewPCG(6, 8)).Shuffle(len(messages), func(a, b int) { messages[a], messages[b] = messages[b], messages[a] })
	return messages, bad
}
