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

// version is part of every path of the runtime API.
const version = "/2018-06-01"

// headerTimeout ends a connection that sends no request; the process is on this machine, so this is generous.
const headerTimeout = 10 * time.Second

// api is the runtime API of one process (Lambda developer guide, "Using the Lambda runtime API for custom runtimes").
type api struct {
	server   *http.Server
	listener net.Listener

	asks chan nextRequest // the process is idle, or will never be
	work chan *invocation // what it is given

	mu      sync.Mutex
	present *invocation // the only one that may be answered; nil for none
}

// nextRequest is a request for an invocation, or the report of a process that cannot take any.
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
	go func() { _ = a.server.Serve(l) }() // ends with close, which is the only error to come
	return a, nil
}

func (a *api) address() string { return a.listener.Addr().String() }

func (a *api) close() { _ = a.server.Close() }

// begin makes an invocation the one to be answered.
func (a *api) begin(inv *invocation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.present = inv
}

// next tells that the process is idle, then keeps it waiting until there is work.
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

// notify passes an ask on, unless the process that made it is gone.
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
	_, _ = w.Write(inv.payload) // a process that is gone is noticed elsewhere
}

// traceID has the form of X-Ray's, which the AWS SDK passes on from call to call.
func (inv *invocation) traceID() string {
	return fmt.Sprintf("Root=1-%08x-%024x;Parent=%016x;Sampled=0", inv.began.Unix(), inv.began.UnixNano(), inv.began.UnixNano())
}

func (a *api) answer(failed bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the process died while it spoke
		}
		if !a.take(r.PathValue("id"), answer{body, failed}) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"errorType":"InvalidRequestID","errorMessage":"Invalid request ID"}`)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// take accepts the one answer to the present invocation.
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
	body, _ := io.ReadAll(r.Body) // half a report is better than none
	a.notify(r, nextRequest{at: time.Now(), failure: string(body)})
	w.WriteHeader(http.StatusAccepted)
}
