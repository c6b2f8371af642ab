package awstest

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// logPage is how many events a page has. AWS returns up to 10,000, but also fewer, or none, while a token leads to more
// (FilterLogEvents, CloudWatch Logs API reference). Clients must follow the token.
const logPage = 20

type logEvent struct {
	at   time.Time
	text string
}

// LogGroup makes a log group, and returns a writer that appends each line as an event, as Lambda does with a function's output.
func (s *Server) LogGroup(name string) io.Writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.logs[name] = []logEvent{}
	return &logWriter{server: s, group: name}
}

type logWriter struct {
	server *Server
	group  string

	mu   sync.Mutex
	rest []byte // an incomplete line
}

// Write implements io.Writer.
func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, b...)
	for {
		line, rest, ended := bytes.Cut(w.rest, []byte("\n"))
		if !ended {
			return len(b), nil
		}
		w.rest = rest
		w.append(string(line))
	}
}

func (w *logWriter) append(line string) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	logs := w.server.account.logs
	logs[w.group] = append(logs[w.group], logEvent{time.Now(), line})
}

var logActions = map[string]action{"FilterLogEvents": filterLogEvents}

type logEventJSON struct {
	Message   string `json:"message"`
	Timestamp int64  `json:"timestamp"` // milliseconds since 1970
}

func filterLogEvents(a *account, r request) (any, *apiError) {
	events, known := a.logs[r.params.Get("logGroupName")]
	if !known {
		return nil, refused(http.StatusBadRequest, "ResourceNotFoundException", "The specified log group does not exist.")
	}
	if r.params.Has("filterPattern") {
		return nil, refused(http.StatusBadRequest, "InvalidParameterException", "Filter patterns are not modeled by awstest")
	}
	start, _ := strconv.ParseInt(r.params.Get("startTime"), 10, 64) // without it, the group's first event is the start
	from, _ := strconv.Atoi(r.params.Get("nextToken"))
	from = min(from, len(events))
	to := min(from+logPage, len(events))
	out := struct {
		Events    []logEventJSON `json:"events"`
		NextToken string         `json:"nextToken,omitempty"`
	}{Events: []logEventJSON{}}
	for _, e := range events[from:to] {
		if e.at.UnixMilli() >= start {
			out.Events = append(out.Events, logEventJSON{e.text, e.at.UnixMilli()})
		}
	}
	if to < len(events) {
		out.NextToken = strconv.Itoa(to)
	}
	return out, nil
}
