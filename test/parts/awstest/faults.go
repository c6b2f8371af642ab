package awstest

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Fault is what goes wrong with an action.
type Fault struct {
	Times       int           // how many calls it spoils; 0: all, until it is removed
	Session     string        // whose calls, by name; empty: anybody's
	Code        int           // HTTP status; 0: only the delay
	ErrorCode   string        // such as Throttling
	Message     string        // such as Rate exceeded
	Delay       time.Duration // the answer waits this long
	AfterEffect bool          // the action takes place, and only its answer is spoiled
}

type fault struct {
	Fault
	service, action string
	struck          int
}

// Fail puts a fault in the way of an action of a service (its name in the signature, as in Call); an empty action means every
// one. The oldest fault that fits a call spoils it.
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

// nextFault is the fault of one call, counted; the zero Fault lets it pass.
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

// strike waits out the delay and says what to answer: nil for the truth.
func (f Fault) strike(ctx context.Context) *apiError {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done(): // the client gave up: what it asked for does not happen
			return refused(http.StatusRequestTimeout, "RequestTimeout", "The client has gone")
		}
	}
	if f.Code == 0 {
		return nil
	}
	return refused(f.Code, f.ErrorCode, f.Message)
}
