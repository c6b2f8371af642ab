package awstest

import (
	"context"
	"io"
	"net/http"
	"net/url"
)

// maxBody is far more than any request of the function. Services have limits of their own.
const maxBody = 8 << 20

// service is one AWS API: its protocol and its actions.
type service struct {
	protocol protocol
	actions  map[string]action
	boundTo  string // a header that the signature must cover; empty: none
}

// protocol is how a service encodes requests and answers.
type protocol interface {
	read(r *http.Request, body []byte) (action string, params url.Values)
	answer(action string, result any) reply
	refuse(e *apiError) reply
}

// action carries out a request. The account is locked while it runs.
type action func(a *account, r request) (any, *apiError)

// unlocked is the result of an action that continues without the lock, because it calls what may call this server.
type unlocked func(ctx context.Context) (any, *apiError)

// request is what an action sees of a request.
type request struct {
	params url.Values
	body   []byte
	sess   Session
}

// reply is an answer in a service's own encoding.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// endpointServices share one address. The service name in the signature selects one.
var endpointServices = map[string]service{
	"autoscaling":    {queryXML{namespace: "http://autoscaling.amazonaws.com/doc/2011-01-01/"}, autoScalingActions, ""},
	"ec2":            {ec2XML{namespace: "http://ec2.amazonaws.com/doc/2016-11-15/"}, ec2Actions, ""},
	"eks":            {restJSON{}, eksActions, ""},
	"lambda":         {restFunctions{}, functionActions, ""},
	"logs":           {jsonRPC{version: "1.1"}, logActions, ""},
	"s3":             {restXML{}, objectActions, contentHash},
	"secretsmanager": {jsonRPC{version: "1.1"}, secretActions, ""},
	"sns":            {queryXML{namespace: "http://sns.amazonaws.com/doc/2010-03-31/"}, topicActions, ""},
	"sqs":            {jsonRPC{version: "1.0"}, queueActions, ""},
	"sts":            {queryXML{namespace: "https://sts.amazonaws.com/doc/2011-06-15/"}, stsActions, ""},
}

func (s *Server) handler(services map[string]service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		s.serve(r, body, services).write(w)
	})
}

func (s *Server) serve(r *http.Request, body []byte, services map[string]service) reply {
	sig, _ := readSignature(r)
	svc, ok := services[sig.service]
	if !ok {
		return queryXML{}.refuse(refused(http.StatusForbidden, "MissingAuthenticationToken", "Missing Authentication Token"))
	}
	name, params := svc.protocol.read(r, body)
	sess, failure := s.authenticate(r, body, sig, svc.boundTo)
	call := s.record(Call{Service: sig.service, Action: name, Session: sess.Name, Params: params, Body: body})
	var result any
	if failure == nil {
		result, failure = s.perform(r.Context(), sig.service, svc.actions, name, request{params, body, sess})
	}
	out := svc.protocol.answer(name, result)
	if failure != nil {
		out = svc.protocol.refuse(failure)
	}
	s.answered(call, out.status)
	return out
}

// authenticate returns the session that a request claims, after it has verified the claim.
func (s *Server) authenticate(r *http.Request, body []byte, sig signature, boundTo string) (Session, *apiError) {
	s.mu.Lock()
	sess, ok := s.sessions[sig.keyID]
	s.mu.Unlock()
	if !ok {
		return Session{}, errUnknownToken
	}
	if boundTo != "" && !sig.covers(boundTo) {
		return Session{}, refused(http.StatusForbidden, "SignatureDoesNotMatch", boundTo+" must be signed")
	}
	if e := sig.check(r, body, sess); e != nil {
		return Session{}, e
	}
	return sess, nil
}

// perform carries out the action, unless a fault affects it.
func (s *Server) perform(ctx context.Context, service string, actions map[string]action, name string, r request) (any, *apiError) {
	do, ok := actions[name]
	if !ok {
		return nil, refused(http.StatusBadRequest, "InvalidAction", "Could not find operation "+name)
	}
	f := s.nextFault(service, name, r.sess.Name)
	if !f.AfterEffect {
		if e := f.strike(ctx); e != nil {
			return nil, e
		}
	}
	result, failure := s.locked(do, r)
	if later, ok := result.(unlocked); ok {
		result, failure = later(ctx)
	}
	if f.AfterEffect && failure == nil {
		failure = f.strike(ctx)
	}
	return result, failure
}

func (s *Server) locked(do action, r request) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return do(s.account, r)
}

func (out reply) write(w http.ResponseWriter) {
	for name, values := range out.header {
		w.Header()[name] = values
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // the client is gone
}
