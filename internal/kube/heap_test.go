package kube

import (
	"io"
	"net/http"
	"runtime"
	"sync"
)

// heapGauge measures how much heap is in use. It collects garbage before each measurement: how much garbage there is depends on
// when the collector runs, and on a busy machine that is late. (The function has GOMEMLIMIT for that.)
type heapGauge struct {
	mu           sync.Mutex
	before, most uint64 // bytes
}

func newHeapGauge() *heapGauge {
	before := heapInUse()
	return &heapGauge{before: before, most: before}
}

func (g *heapGauge) measure() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most = max(g.most, heapInUse())
}

// growth returns the most that was in use, less what was before.
func (g *heapGauge) growth() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most - g.before
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what a sync.Pool keeps lives through one
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// throughGauge measures the heap while answers are read: what reads them waits meanwhile.
type throughGauge struct {
	http.RoundTripper
	gauge *heapGauge
}

func (g throughGauge) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := g.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = &gaugedBody{ReadCloser: response.Body, gauge: g.gauge}
	}
	return response, err
}

// bytesPerMeasurement is far below the limits of tests, and lets them collect garbage a hundred times, not thousands.
const bytesPerMeasurement = 1 << 20

type gaugedBody struct {
	io.ReadCloser
	gauge *heapGauge
	read  int // bytes, since the latest measurement
}

func (b *gaugedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.read += n; b.read >= bytesPerMeasurement {
		b.read = 0
		b.gauge.measure()
	}
	return n, err
}
