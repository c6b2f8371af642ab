package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/aws/aws-lambda-go/lambdacontext"
)

// requestID is the ID of the invocation under way. Lambda runs one at a time in an execution environment.
var requestID atomic.Pointer[string]

// requestLog is a log whose lines have the request ID. It covers the lines of client-go too, which know no invocation.
type requestLog struct{ slog.Handler }

func newLog(out io.Writer) *slog.Logger { return slog.New(requestLog{slog.NewJSONHandler(out, nil)}) }

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
