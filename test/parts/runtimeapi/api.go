package runtimeapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// version is part of all paths of the runtime API.
const version = "/2018-06-01"

// headerTimeout closes a connection that sends no request. It is generous: the process is on this machine.
const headerTimeout = 10 * time.Second

// api is the runtime API of one process (Lambda developer guide, "Using the Lambda runtime API for custom runtimes").
type api struct {
	server   *http.Server
	listener net.Listener

	asks chan nextRequest // from a process that is idle, or will never be
	work chan *invocation // to the process

	mu      sync.Mutex
	present *invocation // the only invocation that may be answered; nil: none
}

// nextRequest is a request for the next invocation, or an init error of a process that cannot take any.
type nextRequest struct {
	at      time.Time
	failure string // JSON; empty for a request
}

func listen() (*api, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the runtime API: %w", err)
	}
	a := &api{listener: l, asks: make(chan nextRequest), work: make(chan *invocation)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+version+"/runtime/invocation/next", a.next)
	mux.HandleFunc("POST "+version+"/runtime/invocation/{id}/response", a.answer(false))
	mux.HandleFunc("POST "+version+"/runtime/invocation/{id}/error", a.answer(true))
	mux.HandleFunc("POST "+version+"/runtime/init/error", a.initError)
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	go func() { _ = a.server.Serve(l) }() // ends with close, which causes the only error
	return a, nil
}

func (a *api) address() string { return a.listener.Addr().String() }

func (a *api) close() { _ = a.server.Close() }

// begin makes an invocation the one that may be answered.
func (a *api) begin(inv *invocation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.present = inv
}

// next reports that the process is idle, then blocks until there is an invocation.
func (a *api) next(w http.ResponseWriter, r *http.Request) {
	if !a.notify(r, nextRequest{at: time.Now()}) {
		return
	}
	select {
	case inv := <-a.work:
		inv.write(w)
	case <-r.Context().Done():
	}
}

// notify passes a request on, unless its process is gone.
func (a *api) notify(r *http.Request, made nextRequest) bool {
	select {
	case a.asks <- made:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (inv *invocation) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline().UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", functionARN)
	h.Set("Lambda-Runtime-Trace-Id", inv.traceID())
	_, _ = w.Write(inv.payload) // the end of a process is noticed elsewhere
}

// traceID has the form of an X-Ray trace ID, which the AWS SDK passes on from call to call.
func (inv *invocation) traceID() string {
	return fmt.Sprintf("Root=1-%08x-%024x;Parent=%016x;Sampled=0", inv.began.Unix(), inv.began.UnixNano(), inv.began.UnixNano())
}

func (a *api) answer(failed bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the process died while it sent its answer
		}
		if !a.take(r.PathValue("id"), answer{body, failed}) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"errorType":"InvalidRequestID","errorMessage":"Invalid request ID"}`)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// take accepts the answer to the present invocation, once.
func (a *api) take(id string, given answer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.present == nil || a.present.id != id {
		return false
	}
	a.present.answered <- given
	a.present = nil
	return true
}

func (a *api) initError(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // part of a report is better than none
	a.notify(r, nextRequest{at: time.Now(), failure: string(body)})
	w.WriteHeader(http.StatusAccepted)
}
