package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"quiesce/internal/drain"
	"quiesce/internal/termination"
)

// requestID is the ID of the invocation under way. Lambda runs one at a time in an execution environment.
var requestID atomic.Pointer[string]

// requestLog is a log whose lines have the request ID. It covers the lines of client-go too, which know no invocation.
type requestLog struct{ slog.Handler }

func newLog(out io.Writer) *slog.Logger {
	return slog.New(requestLog{slog.NewJSONHandler(out, &slog.HandlerOptions{ReplaceAttr: bound})})
}

// The bounds of a log line's values, in bytes. CloudWatch Logs takes at most 256 KB in one event
// (https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_InputLogEvent.html), and JSON makes a text up to six times
// as long. So a line with a report and eight long texts fits.
const (
	maxReport = 150_000
	maxText   = 2048
	maxList   = 20 // texts
)

// bound cuts a value of a log line that is too long. Servers and consoles that the function asks may answer with any length.
func bound(_ []string, a slog.Attr) slog.Attr {
	switch value := a.Value.Any().(type) {
	case termination.Report:
		return slog.Any(a.Key, value.Within(maxReport))
	case string:
		return slog.String(a.Key, cut(value))
	case error:
		return slog.String(a.Key, cut(value.Error()))
	case []string:
		texts := slices.Clone(value[:min(maxList, len(value))])
		for i := range texts {
			texts[i] = cut(texts[i])
		}
		return slog.Any(a.Key, texts)
	}
	return a
}

func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return fmt.Sprintf("%s (%d bytes)", drain.Cut(text, maxText), len(text))
}

// Handle implements slog.Handler.
func (l requestLog) Handle(ctx context.Context, line slog.Record) error {
	if id := requestID.Load(); id != nil {
		line = line.Clone()
		line.AddAttrs(slog.String("requestId", *id))
	}
	return l.Handler.Handle(ctx, line)
}

// WithAttrs implements slog.Handler.
func (l requestLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestLog{l.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (l requestLog) WithGroup(name string) slog.Handler {
	return requestLog{l.Handler.WithGroup(name)}
}

type invoke func(context.Context, json.RawMessage) (any, error)

// withRequestID notes the request ID of each invocation for the log.
func withRequestID(next invoke) invoke {
	return func(ctx context.Context, payload json.RawMessage) (any, error) {
		if invocation, known := lambdacontext.FromContext(ctx); known {
			requestID.Store(&invocation.AwsRequestID)
		}
		return next(ctx, payload)
	}
}
