package termination

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

// Handler answers the function's invocations.
type Handler struct {
	Parse       func(payload []byte) Delivery
	EncodeEvent func(Termination) string // as an event that Parse reads
	Groups      Groups
	Fleet       Fleet
	Hooks       Hooks
	Queue       Queue                                     // nil: messages are left as they are
	DLQ         DeadLetterQueue                           // nil: malformed records fail
	Metrics     Metrics                                   // nil: nobody watches
	Archive     Archive                                   // nil: reports are not kept
	Connect     func(context.Context) (Kubernetes, error) // called once a termination has been verified
	Drainer     drain.Drainer
	Policy      Policy
	Log         *slog.Logger
}

// Policy is what an operator decides.
type Policy struct {
	OwnsGroup                 func(name string) bool
	GroupNames                []string // of all that are ours; empty: only OwnsGroup tells
	Hook                      string   // the only hook that is ever completed or kept alive
	OnFailure                 Result   // of the action, when the drain itself failed
	OnRebalanceRecommendation bool     // drain instances that EC2 may soon take back
	Shadow                    bool     // plan and report, change nothing, let the instance go at once
	Force                     bool     // delete, in time to stop, the pods that do not leave before the deadline; else they are left
	AllowManualDrain          bool     // of instances that do not wait on our hook
	Bounds                    Bounds
}

// Bounds are a drain's times.
type Bounds struct {
	MaxDuration         time.Duration // from the beginning of the lifecycle action
	CompletionReserve   time.Duration // of MaxDuration, for completing the action
	NodeJoinTimeout     time.Duration // for a node that is still joining
	VolumeDetachTimeout time.Duration // for the volumes of evicted pods
}

// Invoke handles one delivery and answers in the shape that its source expects: a report, a list of reports, or the failed
// items of a batch (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
func (h *Handler) Invoke(ctx context.Context, payload json.RawMessage) (any, error) {
	delivery := h.Parse(payload)
	if r := delivery.Records[0].Request; r != nil && r.Action == ActionSweep {
		return h.sweep(ctx)
	}
	done := h.handleAll(ctx, delivery.Records)
	switch delivery.Source {
	case SQS:
		return failedItems(delivery.Records, done), nil
	case SNS:
		return reports(done), firstError(done)
	default:
		return done[0].report, done[0].err
	}
}

// outcome is what came of one record.
type outcome struct {
	report Report
	err    error
}

// handleAll handles a batch's records side by side: one that has to wait must not use up the others' time.
func (h *Handler) handleAll(ctx context.Context, records []Record) []outcome {
	done, messages := make([]outcome, len(records)), make([]*message, len(records))
	var group sync.WaitGroup
	for i, record := range records {
		group.Go(func() {
			messages[i] = h.keepHidden(ctx, record)
			done[i] = h.handle(ctx, record)
			messages[i].returnToQueue(ctx, done[i])
		})
	}
	group.Wait()
	for _, m := range messages {
		m.release()
	}
	return done
}

// handle does what one record asks for, and logs its outcome: the only place where an error is logged.
func (h *Handler) handle(ctx context.Context, record Record) outcome {
	report, err := h.dispatch(ctx, record)
	report = report.withLists()
	log := h.Log.With("instance", report.InstanceID, "group", report.Group, "node", report.Node)
	if record.MessageID != "" {
		log = log.With("message", record.MessageID, "receives", record.Receives)
	}
	_, incomplete := errors.AsType[*Incomplete](err)
	switch {
	case incomplete:
		log.Info("handed over", "report", report)
	case err != nil:
		log.Error("not done", "error", err.Error(), "report", report)
	case report.deadLettered:
		log.Error("moved to the dead letters", "reason", report.Reason)
	default:
		log.Info("done", "report", report)
	}
	return outcome{report, err}
}

func (h *Handler) dispatch(ctx context.Context, record Record) (Report, error) {
	switch {
	case record.Malformed != nil:
		return h.sendToDLQ(ctx, record)
	case record.NotOurs != "":
		return Report{Status: StatusSkipped, Reason: record.NotOurs}, nil
	case record.Request != nil:
		return h.handleRequest(ctx, *record.Request)
	}
	return h.terminate(ctx, record)
}

// sendToDLQ moves a record of a batch that no retry can mend to the dead letters: it would come again for days, and each time hold
// up its batch. Where there are none, and for one that came alone, the error goes to whoever delivers.
func (h *Handler) sendToDLQ(ctx context.Context, record Record) (Report, error) {
	report := Report{Status: StatusRejected, Reason: record.Malformed.Error()}
	if h.Metrics != nil && record.isFirst() {
		h.Metrics.MalformedEvent()
	}
	if h.DLQ == nil || record.MessageID == "" {
		return report, &Malformed{record.Malformed}
	}
	ctx, cancel := boundInvocation(ctx)
	defer cancel()
	if err := h.DLQ.SendToDLQ(ctx, record); err != nil {
		return report, &Malformed{fmt.Errorf("%w; %w", record.Malformed, err)}
	}
	report.deadLettered = true
	return report, nil
}

func reports(done []outcome) []Report {
	all := make([]Report, len(done))
	for i, o := range done {
		all[i] = o.report
	}
	return all
}

// firstError is that of a delivery which is retried as a whole.
func firstError(done []outcome) error {
	for _, o := range done {
		if o.err != nil {
			return o.err
		}
	}
	return nil
}

// batchResponse names the records of an SQS batch that are to be delivered again.
type batchResponse struct {
	Failures []failedItem `json:"batchItemFailures"`
}

type failedItem struct {
	ID string `json:"itemIdentifier"`
}

func failedItems(records []Record, done []outcome) batchResponse {
	response := batchResponse{Failures: []failedItem{}}
	for i, o := range done {
		if o.isRetried() {
			response.Failures = append(response.Failures, failedItem{records[i].MessageID})
		}
	}
	return response
}
