package awstest

import (
	"net/url"
	"slices"
	"time"
)

// Call is one signed request to a service, rejected requests and those through the STS proxy included.
type Call struct {
	Service string // as in the signature: autoscaling, ec2, eks, lambda, logs, s3, secretsmanager, sns, sqs, sts
	Action  string
	Session string // name of the session; empty if the signature was rejected
	At      time.Time
	Done    time.Time // when it was answered; zero until then
	Params  url.Values
	Body    []byte
	Code    int // HTTP status of the answer; 0 until it is sent
}

// Calls returns all calls so far, in order of arrival.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// CallsOf returns the calls of the sessions with this one's name.
func (s *Server) CallsOf(sess Session) []Call {
	return slices.DeleteFunc(s.Calls(), func(c Call) bool { return c.Session != sess.Name })
}

func (s *Server) record(c Call) (index int) {
	c.At = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
	return len(s.calls) - 1
}

func (s *Server) answered(index, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[index].Code, s.calls[index].Done = code, time.Now()
}
