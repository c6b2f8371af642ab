package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Controllers is the user of kube-controller-manager. The log has only those of its requests that write the status of
// PodDisruptionBudgets.
const Controllers = "system:kube-controller-manager"

// Audit reads the API server's audit log: each request, its user and its answer. Requests of the lab's own components are not
// logged, except those of Controllers.
type Audit struct {
	path string
}

// Request is one request that the API server answered or, for a watch, started to answer.
type Request struct {
	Time        time.Time // when it arrived
	Done        time.Time // when it was answered; for a watch, when it ended, or zero while it runs
	User        string
	UserAgent   string
	Verb        string // as in RBAC: get, list, watch, create, update, patch, delete, deletecollection
	Group       string // API group; empty for the core group
	Resource    string // plural; empty for a URI without a resource
	Subresource string
	Namespace   string
	Name        string
	URI         string
	Watch       bool
	Code        int             // HTTP status
	Denied      bool            // by RBAC, not by admission
	Body        json.RawMessage // the options, for the deletion of a pod
}

// entry is the part of an audit event that is used here (https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/).
type entry struct {
	AuditID    string
	Stage      string
	Verb       string
	RequestURI string
	UserAgent  string
	User       struct{ Username string }
	ObjectRef  struct{ APIGroup, Resource, Subresource, Namespace, Name string }

	Annotations              map[string]string
	RequestObject            json.RawMessage
	ResponseStatus           struct{ Code int }
	RequestReceivedTimestamp metav1.MicroTime
	StageTimestamp           metav1.MicroTime
}

// decision is the annotation that says whether the user had permission
// (https://kubernetes.io/docs/reference/labels-annotations-taints/audit-annotations/#authorization-k8s-io-decision).
const decision = "authorization.k8s.io/decision"

// Audit returns the lab's audit log.
func (l *Lab) Audit() *Audit {
	return &Audit{path: l.auditLog()}
}

// By returns the requests of the users with exactly these names, each once, in order of arrival.
func (a *Audit) By(users ...string) ([]Request, error) {
	wanted := map[string]bool{}
	var names [][]byte
	for _, user := range users {
		name, err := json.Marshal(user)
		if err != nil {
			return nil, err
		}
		wanted[user], names = true, append(names, name)
	}
	// Tests ask again and again, and to decode each line of a long log takes seconds with the race detector.
	mayBe := func(line []byte) bool {
		return slices.ContainsFunc(names, func(name []byte) bool { return bytes.Contains(line, name) })
	}
	return a.read(mayBe, func(user string) bool { return wanted[user] })
}

// Of returns the requests of the selected users, each once, in order of arrival.
func (a *Audit) Of(users func(name string) bool) ([]Request, error) {
	return a.read(func([]byte) bool { return true }, users)
}

// read returns the requests of the selected users. It decodes only lines that may be theirs.
func (a *Audit) read(mayBe func(line []byte) bool, users func(name string) bool) ([]Request, error) {
	log, err := os.Open(a.path)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	defer log.Close()
	requests, err := requestsBy(mayBe, users, log)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return requests, nil
}

// requestsBy keeps the last entry of each request: a watch is logged when it starts and when it ends.
func requestsBy(mayBe func([]byte) bool, users func(string) bool, log io.Reader) ([]Request, error) {
	byID := map[string]Request{}
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // the rest is an entry being written
		}
		if err != nil {
			return nil, err
		}
		if !mayBe(line) {
			continue
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("decode %q: %w", line, err)
		}
		if users(e.User.Username) {
			byID[e.AuditID] = e.request()
		}
	}
	arrival := func(a, b Request) int { return a.Time.Compare(b.Time) }
	return slices.SortedFunc(maps.Values(byID), arrival), nil
}

func (e entry) request() Request {
	r := Request{
		Time: e.RequestReceivedTimestamp.Time, User: e.User.Username, UserAgent: e.UserAgent,
		Verb: e.Verb, Watch: e.Verb == "watch", URI: e.RequestURI, Code: e.ResponseStatus.Code,
		Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Subresource: e.ObjectRef.Subresource,
		Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name, Body: e.RequestObject,
		Denied: e.Annotations[decision] == "forbid",
	}
	if e.Stage != "ResponseStarted" {
		r.Done = e.StageTimestamp.Time
	}
	return r
}
