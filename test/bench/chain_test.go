package bench

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/lab"
	"quiesce/test/parts/runtimeapi"
	"quiesce/test/parts/slow"
)

const (
	// chainPods is how many pods the node has. The chain ends with the first of them.
	chainPods = 3
	// tolerance is for clocks of two processes that round differently. A call that began this much before an answer waited for it.
	tolerance = time.Millisecond
)

// BenchmarkChain measures the time from exec to the first eviction at the API server, by a cold process, behind a network that delays each
// answer of AWS and Kubernetes, and each handshake. Beside it runs testdata/bare, which makes only the calls that must be made one after
// the other. It prints which call waited for which.
func BenchmarkChain(b *testing.B) {
	lab.Require(b)
	root, err := env.Root()
	require.NoError(b, err)
	folder := b.TempDir()
	quiesce, bare := filepath.Join(folder, "quiesce"), filepath.Join(folder, "bare")
	require.NoError(b, env.Build(b.Context(), root, quiesce))
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bare, "./testdata/bare")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(b, err, "%s", output)
	s, err := env.Start(b.Context(), env.Options{Root: root, Bootstrap: quiesce})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Stop()) })
	for _, delay := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		b.Run(delay.String(), func(b *testing.B) { compareChains(b, s, delay, quiesce, bare) })
	}
}

func compareChains(b *testing.B, s *env.Env, delay time.Duration, quiesce, bare string) {
	n := newNetwork(b, s, delay)
	var ours, least []chain
	round := 0
	for b.Loop() {
		round++
		least = append(least, n.first(b, fmt.Sprintf("bare-%d-%d", delay.Milliseconds(), round), bare))
		ours = append(ours, n.first(b, fmt.Sprintf("quiesce-%d-%d", delay.Milliseconds(), round), quiesce))
	}
	mine, its := middle(ours), middle(least)
	b.Logf("quiesce, each answer delayed by %s:\n%s", delay, mine)
	b.Logf("bare, each answer delayed by %s:\n%s", delay, its)
	b.ReportMetric(mine.took.Seconds()*1000, "quiesce-ms")
	b.ReportMetric(its.took.Seconds()*1000, "bare-ms")
	b.ReportMetric(mine.took.Seconds()/its.took.Seconds(), "quiesce/bare")
	b.ReportMetric(0, "ns/op")
}

// middle returns the chain of median length.
func middle(all []chain) chain {
	slices.SortFunc(all, func(a, b chain) int { return cmp.Compare(a.took, b.took) })
	return all[len(all)/2]
}

// network is a slow way to each endpoint. Each service has an address of its own, as in AWS.
type network struct {
	*env.Env
	delay    time.Duration
	services map[string]*slow.Proxy // by the name of their variable
	api      *slow.Proxy
}

func newNetwork(b *testing.B, s *env.Env, delay time.Duration) *network {
	n := &network{Env: s, delay: delay, services: map[string]*slow.Proxy{}}
	for _, name := range []string{"AUTO_SCALING", "EC2", "EKS"} {
		n.services[name] = slowTo(b, s.AWS.URL(), delay, 2)
	}
	n.api = slowTo(b, s.Lab.Endpoint(), delay, 1)
	s.AWS.AddCluster(env.Cluster, "https://"+n.api.Address(), s.Lab.CA())
	return n
}

func slowTo(b *testing.B, endpoint string, delay time.Duration, handshakes int) *slow.Proxy {
	target, err := url.Parse(endpoint)
	require.NoError(b, err)
	proxy, err := slow.Start(target.Host, delay, handshakes)
	require.NoError(b, err)
	b.Cleanup(proxy.Close)
	return proxy
}

// first starts the program with an event of a termination, and returns what it did until the first eviction.
func (n *network) first(b *testing.B, name, program string) chain {
	f := newFixture(b, n.Env, name, chainPods)
	defer f.clear()
	session, root := n.AWS.Session(name), b.TempDir()
	require.NoError(b, os.WriteFile(filepath.Join(root, "quiesce.yaml"), []byte("cluster: lab\nautoScalingGroups: ["+name+"]\nmode: drain\n"), 0o644))
	environment := append(n.AWS.Environment(session), "CLUSTER_NAME="+env.Cluster)
	for service, proxy := range n.services {
		environment = append(environment, "AWS_ENDPOINT_URL_"+service+"=http://"+proxy.Address())
	}
	event := n.AWS.Terminate(f.target.ID)[0].Body
	before := time.Now()
	function, err := runtimeapi.Start(f.ctx, runtimeapi.Options{Bootstrap: program, TaskRoot: root, Env: environment})
	require.NoError(b, err)
	defer function.Close()
	result, err := function.Invoke(f.ctx, event)
	require.NoError(b, err)
	require.Empty(b, result.ErrorType, result.ErrorMessage)
	return n.chain(b, before, function.ColdStart(), session)
}

// step is a call or the handshakes of a connection. End is when the client has the answer.
type step struct {
	what       string
	start, end time.Duration
}

// chain is what happened from exec to the first eviction.
type chain struct {
	took  time.Duration
	delay time.Duration
	steps []step // in order
}

func (n *network) chain(b *testing.B, began time.Time, cold time.Duration, session awstest.Session) chain {
	c := chain{delay: n.delay, steps: []step{{"start of the process", 0, cold}}}
	add := func(what string, start, end time.Time) {
		if start.After(began) {
			c.steps = append(c.steps, step{what, start.Sub(began), end.Add(n.delay).Sub(began)})
		}
	}
	for name, proxy := range n.services {
		for _, at := range proxy.Opened() {
			add("connect to "+name, at, at.Add(n.delay))
		}
	}
	for _, at := range n.api.Opened() {
		add("connect to the API server", at, at.Add(n.delay))
	}
	for _, call := range n.AWS.CallsOf(session) {
		add(call.Service+" "+call.Action, call.At, call.Done)
	}
	requests, err := n.Lab.Audit().By("quiesce:" + session.Name)
	require.NoError(b, err)
	for _, r := range requests {
		end := r.Done
		if r.Watch { // its first answer comes at once
			end = r.Time
		}
		add(strings.TrimSpace(strings.Join([]string{r.Verb, r.Resource, r.Subresource}, " ")), r.Time, end)
		if r.Subresource == "eviction" {
			c.took = r.Time.Sub(began)
			break
		}
	}
	require.NotZero(b, c.took, "no eviction")
	c.steps = slices.DeleteFunc(c.steps, func(s step) bool { return s.start > c.took })
	slices.SortStableFunc(c.steps, func(a, b step) int { return cmp.Compare(a.start, b.start) })
	return c
}

// waitedFor returns the step whose answer is the latest that this step can have waited for; -1: none.
func (c chain) waitedFor(i int) int {
	latest := -1
	for j, s := range c.steps {
		if j != i && s.end <= c.steps[i].start+tolerance && (latest < 0 || s.end > c.steps[latest].end) {
			latest = j
		}
	}
	return latest
}

// String lists the steps. A star marks those that the first eviction waited for, one after the other.
func (c chain) String() string {
	waiting := map[int]bool{}
	last := len(c.steps) - 1
	for i := last; i >= 0 && !waiting[i]; i = c.waitedFor(i) {
		waiting[i] = true
	}
	text := &strings.Builder{}
	for i, s := range c.steps {
		star, after := " ", ""
		if waiting[i] {
			star = "*"
		}
		if j := c.waitedFor(i); j >= 0 {
			after = fmt.Sprintf("%d, %.1f ms before", j+1, milliseconds(s.start-c.steps[j].end))
		}
		fmt.Fprintf(text, "%s %2d  %6.1f to %6.1f ms  %-40s after %s\n", star, i+1, milliseconds(s.start), milliseconds(s.end), s.what, after)
	}
	return text.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
