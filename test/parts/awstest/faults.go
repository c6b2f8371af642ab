package awstest

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Fault is an injected failure of an action.
type Fault struct {
	Times       int           // how many calls it affects; 0: all, until it is removed
	Session     string        // name of the session it affects; empty: every session
	Code        int           // HTTP status; 0: only the delay
	ErrorCode   string        // such as Throttling
	Message     string        // such as Rate exceeded
	Delay       time.Duration // delay of the answer; an hour stands for an endpoint that accepts and never answers
	AfterEffect bool          // the action takes effect, and only its answer fails
}

type fault struct {
	Fault
	service, action string
	struck          int
}

// Fail injects a fault into an action of a service (its name as in the signature and in Call). An empty action means every
// action. The oldest matching fault affects a call. The returned function removes the fault.
func (s *Server) Fail(service, action string, f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := &fault{Fault: f, service: service, action: action}
	s.faults = append(s.faults, added)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(f *fault) bool { return f == added })
	}
}

// nextFault returns the fault that affects a call and counts it; the zero Fault if there is none.
func (s *Server) nextFault(service, action, session string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		fits := f.service == service && (f.action == "" || f.action == action) && (f.Session == "" || f.Session == session)
		if spent := f.Times > 0 && f.struck == f.Times; fits && !spent {
			f.struck++
			return f.Fault
		}
	}
	return Fault{}
}

// strike waits for the delay and returns the error to answer with, or nil.
func (f Fault) strike(ctx context.Context) *apiError {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done(): // the client is gone: the action has no effect
			return refused(http.StatusRequestTimeout, "RequestTimeout", "The client has gone")
		}
	}
	if f.Code == 0 {
		return nil
	}
	return refused(f.Code, f.ErrorCode, f.Message)
}
