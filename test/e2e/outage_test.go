package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"quiesce/test/env"
	"quiesce/test/parts/awstest"
)

const (
	// outageSeconds is how long the API server is away in a plain test, beside its start time; OUTAGE overrides it. With more
	// than 30 s the Leases expire.
	outageSeconds = 2
	// etcdOutage is how long etcd does not answer: as long as a request of the function waits for an answer.
	etcdOutage = 15 * time.Second
	// identityOutage is longer than the API server caches a token.
	identityOutage = tokenCacheTTL + 4*time.Second
)

// outage is a failure of the control plane, and what the functions then log.
type outage struct {
	begin func(*queueFixture) (restore func())
	log   string
}

// AWS upgrades and moves the control plane of EKS while nodes are drained, and its parts fail. A drain in progress then
// continues, a new drain starts later, and nothing is done twice.
func TestOutage_ControlPlane_DrainFinishes(t *testing.T) {
	own := ownEnv(t)
	for name, o := range map[string]outage{
		"the API server is stopped and started again": {stopAPIServer, "connection refused"},
		"etcd does not answer":                        {freezeEtcd, "acquire lease"},
		"no token is believed":                        {denyTokens, "Unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newQueueFixtureOn(t, own, 3, 2, env.Settings{})
			first, second, bystander := p.instances[0], p.instances[1], p.instances[2]
			pods := p.beginBlockedDrain(first)
			restore := o.begin(p)
			p.send(p.terminate(second).Body)
			p.awaitLog(failedEvent)
			restore()
			p.removePDB("web")
			p.awaitEmptyQueue()
			p.logProblems()
			p.awaitLog(o.log)
			p.requireDrainedOnce(first, pods)
			p.requireDrainedOnce(second, nil)
			p.requireUntouched(bystander)
		})
	}
}

// beginBlockedDrain terminates an instance whose node has several pods. It returns when the drain has started and is blocked by a
// PDB; removing the PDB lets the drain continue.
func (p *queueFixture) beginBlockedDrain(i env.Instance) (pods []corev1.Pod) {
	p.Helper()
	p.runPodOn(i, "quick", stopsAfter("100ms"))
	p.runPodOn(i, "slow", stopsAfter("8s"))
	p.deploy("web", 1, func(d *appsv1.Deployment) { // its replacement stays pending
		d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: i.Node}
	})
	p.pdb("web", "web", 0)
	pods = p.podsOn(i)
	p.send(p.terminate(i).Body)
	p.deliver(1)
	p.awaitLog("eviction blocked")
	p.awaitGone("quick")
	return pods
}

// awaitLog waits until one of the functions has logged this text.
func (p *queueFixture) awaitLog(text string) {
	p.Helper()
	p.until("the log has "+text, func() (bool, error) {
		return slices.ContainsFunc(p.functions, func(f *env.Function) bool { return strings.Contains(f.Output(), text) }), nil
	})
}

// logProblems logs the functions' warnings and errors, each message once.
func (p *queueFixture) logProblems() {
	p.Helper()
	seen := map[string]bool{}
	for _, f := range p.functions {
		for text := range strings.Lines(f.Output()) {
			var l struct{ Level, Msg string }
			if json.Unmarshal([]byte(text), &l) == nil && l.Level != "INFO" && !seen[l.Msg] {
				seen[l.Msg] = true
				p.Logf("%s", text)
			}
		}
	}
}

// awaitElapsed waits until a failure has lasted for d.
func (p *queueFixture) awaitElapsed(since time.Time, d time.Duration) {
	p.Helper()
	p.until("the failure has lasted for "+d.String(), func() (bool, error) { return time.Since(since) >= d, nil })
}

func stopAPIServer(p *queueFixture) (restore func()) {
	require.NoError(p, p.Lab.StopAPIServer(p.ctx))
	since := time.Now()
	return func() {
		p.awaitElapsed(since, time.Duration(envInt(p.T, "OUTAGE", outageSeconds))*time.Second)
		require.NoError(p, p.Lab.StartAPIServer(p.ctx))
	}
}

func freezeEtcd(p *queueFixture) (restore func()) {
	thaw, err := p.Lab.FreezeEtcd(p.ctx)
	require.NoError(p, err)
	thaw = sync.OnceValue(thaw)
	p.Cleanup(func() { require.NoError(p, thaw()) })
	since := time.Now()
	return func() {
		p.awaitElapsed(since, etcdOutage)
		require.NoError(p, thaw())
	}
}

// denyTokens makes STS answer that the functions' sessions have expired, even for new tokens.
func denyTokens(p *queueFixture) (restore func()) {
	remove := p.AWS.Fail("sts", "GetCallerIdentity", awstest.Fault{
		Code: http.StatusForbidden, ErrorCode: "ExpiredToken", Message: "The security token included in the request is expired",
	})
	p.Cleanup(remove)
	since := time.Now()
	return func() {
		p.awaitElapsed(since, identityOutage)
		remove()
	}
}
