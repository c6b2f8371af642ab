package drain

import (
	"errors"
	"time"
)

const (
	// assumedDeletion is how long a deletion takes while none was measured: what a webhook that is slow may take. A shorter one would
	// leave the last of many pods without a signal, a longer one would be taken from the time for which PDBs are respected. The first
	// deletion corrects it.
	assumedDeletion = 2 * time.Second
	// maxRequestTime bounds what one request adds to the estimate. A hanging request says little about the next one, and PDBs are
	// overruled the earlier, the slower the server seems.
	maxRequestTime = 5 * time.Second
	// estimateShare is the weight of the newest request in the estimate: one part of this many.
	estimateShare = 4
)

// Ask is what it takes to have the API server tell due pods to stop.
type Ask struct {
	Takes  time.Duration // an eviction, and a deletion after it
	AtOnce int           // pods that are asked for at the same time; zero: all
}

// requestTimes are estimates of how long the API server takes for an eviction and for a deletion.
type requestTimes struct{ evict, remove requestTime }

type requestTime struct {
	measured bool
	average  time.Duration // of the recent requests
}

// add counts a request. The newest ones weigh most.
func (t *requestTime) add(took time.Duration) {
	took = min(took, maxRequestTime)
	if !t.measured {
		t.measured, t.average = true, took
		return
	}
	t.average += (took - t.average) / estimateShare
}

// takes returns how long an eviction and a deletion after it take.
func (t requestTimes) takes() time.Duration { return t.evict.average + t.deletion() }

func (t requestTimes) deletion() time.Duration {
	if t.remove.measured {
		return t.remove.average
	}
	return max(assumedDeletion, t.evict.average)
}

// note counts the requests of a response. A failure that comes soon says nothing about the time of the next request.
func (t *requestTimes) note(r response) {
	evictError := r.err
	if r.deletedWith > 0 {
		evictError = r.evictError
		if r.err == nil || r.deleteTook > t.deletion() {
			t.remove.add(r.deleteTook)
		}
	}
	_, blocked := errors.AsType[*Blocked](evictError)
	if r.evicted && (evictError == nil || blocked || r.evictTook > t.evict.average) {
		t.evict.add(r.evictTook)
	}
}

// spread makes pods that share a last moment start early enough to be asked for one after the other, as many at once as the drain may.
// The pods are in the order of need, the longest first. Afterwards need includes what it takes to ask.
func (a Ask) spread(pods []*Planned) {
	for i := len(pods) - 1; i >= 0; i-- {
		if next := i + a.AtOnce; a.AtOnce > 0 && next < len(pods) {
			pods[i].need = max(pods[i].need, pods[next].need)
		}
		pods[i].need += a.Takes
	}
}
