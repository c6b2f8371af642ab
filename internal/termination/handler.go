package termination

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"quiesce/internal/drain"
)

// Handler answers the function's invocations.
type Handler struct {
	Parse       func(payload []byte) Delivery
	EncodeEvent func(Termination) string // returns an event that Parse can read
	Groups      Groups
	Hooks       Hooks
	Queue       Queue                                     // nil: the visibility of messages is not changed
	DLQ         DeadLetterQueue                           // nil: malformed records fail
	Metrics     Metrics                                   // nil: none
	Archive     Archive                                   // nil: reports are not stored
	Connect     func(context.Context) (Kubernetes, error) // may be called before a termination is verified
	NextStep    func(error) string                        // says what a person does about an error of an adapter; empty: unknown
	Drainer     drain.Drainer
	Policy      Policy
	Primaries   Primaries // nil: no databases are configured
	Log         *slog.Logger
	Version     string // of this function, and the commit that it was built from
	Commit      string

	logVersion sync.Once
}

// Policy has the operator's decisions.
type Policy struct {
	Owns                      func(group string, tags map[string]string) bool // reports whether a group is ours, by its name or by its tags
	GroupsByTag               bool                                            // a group may be ours by its tags, whatever its name is
	GroupNames                []string                                        // of all our groups; empty: only Owns knows
	Hook                      string                                          // the only hook whose actions are completed or kept alive
	HeartbeatTimeout          time.Duration                                   // of hooks that are put
	ManageHooks               bool                                            // the sweep puts our hook on each group of ours that has none
	ManagedBy                 string                                          // the stack's name; hooks that are put say so
	OnFailure                 Result                                          // completes the action when the drain itself failed
	OnRebalanceRecommendation bool                                            // drain instances that EC2 may soon reclaim
	OnSpotInterruption        bool                                            // drain instances that EC2 reclaims now
	OnScheduledChange         bool                                            // replace instances for which EC2 has scheduled a change
	Cluster                   string                                          // its name decides when in each hour a sweep looks at scheduled changes
	Shadow                    bool                                            // plan and report, change nothing, complete at once
	Force                     bool                                            // delete remaining pods in time to stop before the deadline; otherwise they are kept
	AllowManualDrain          bool                                            // of instances that do not wait on our hook
	Bounds                    Bounds
}

// Bounds are a drain's times.
type Bounds struct {
	MaxDuration         time.Duration // from the start of the lifecycle action
	CompletionReserve   time.Duration // of MaxDuration, for completing the action
	NodeJoinTimeout     time.Duration // for a node that is still joining
	VolumeDetachTimeout time.Duration // for the volumes of evicted pods
}

// notOurs returns why a termination is not for quiesce, as far as the event itself says; empty: it is, or its group's tags decide.
func (p Policy) notOurs(t Termination) string {
	switch {
	case t.Trigger == RebalanceRecommendation && !p.OnRebalanceRecommendation:
		return string(t.Trigger) + ": drain.onRebalanceRecommendation is off"
	case t.Trigger == SpotInterruption && !p.OnSpotInterruption:
		return string(t.Trigger) + ": drain.onSpotInterruption is off"
	case t.Trigger != "": // it names no group
		return ""
	case !p.GroupsByTag && !p.Owns(t.Group, nil):
		return notOurGroup(t.Group)
	case t.Hook != p.Hook:
		return fmt.Sprintf("hook %s is not managed by quiesce", t.Hook)
	}
	return ""
}

// Invoke handles one delivery and answers in the shape that its source expects: a report, a list of reports, or the failed
// items of a batch (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
func (h *Handler) Invoke(ctx context.Context, payload json.RawMessage) (any, error) {
	h.logVersion.Do(func() { h.Log.Info("function started", "version", h.Version, "commit", h.Commit) })
	delivery := h.Parse(payload)
	if r := delivery.Records[0].Request; r != nil {
		switch {
		case r.Action == ActionSweep:
			return h.sweep(ctx)
		case r.Action == ActionCheck:
			return h.check(ctx), nil
		case r.Action == ActionSwitchover:
			return h.switchover(ctx, r.switchover()), nil
		case r.Action == ActionResume && delivery.Source == Direct:
			return h.resumeByHand(ctx)
		}
	}
	outcomes := h.handleAll(ctx, delivery.Records)
	switch delivery.Source {
	case SQS:
		return failedItems(delivery.Records, outcomes), nil
	case SNS:
		return reports(outcomes), firstError(outcomes)
	default:
		return outcomes[0].report, outcomes[0].err
	}
}

// outcome is the result of one record.
type outcome struct {
	report Report
	err    error
}

// handleAll handles a batch's records in parallel: a record that waits must not use up the time of the others.
func (h *Handler) handleAll(ctx context.Context, records []Record) []outcome {
	outcomes, messages := make([]outcome, len(records)), make([]*message, len(records))
	var group sync.WaitGroup
	for i, record := range records {
		group.Go(func() {
			messages[i] = h.keepHidden(ctx, record)
			outcomes[i] = h.handle(ctx, record)
			messages[i].returnToQueue(ctx, outcomes[i])
		})
	}
	group.Wait()
	for _, m := range messages {
		m.stop()
	}
	return outcomes
}

// handle handles one record, and logs its outcome. Its errors are logged only here, except the stack of a panic.
func (h *Handler) handle(ctx context.Context, record Record) outcome {
	report, err := h.dispatchSafely(ctx, record)
	report = report.withLists()
	log := h.Log.With("instance", report.InstanceID, "group", report.Group, "node", report.Node)
	if record.MessageID != "" {
		log = log.With("messageId", record.MessageID, "receives", record.Receives)
	}
	switch {
	case isHandedOff(err):
		log.Info("drain incomplete, handed off to next invocation", "report", report)
	case err != nil:
		log.Error("event failed, will retry", "error", err.Error(), "report", report)
	case report.deadLettered:
		log.Error("message moved to dead-letter queue", "reason", report.Reason)
	case report.silent:
		log.Debug("event handled", "report", report)
	default:
		log.Info("event handled", "report", report)
	}
	return outcome{report, err}
}

// dispatchSafely turns a panic into an error. The record comes again, and the other records of the batch are handled.
func (h *Handler) dispatchSafely(ctx context.Context, record Record) (report Report, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		h.Log.Error("panic recovered", "error", drain.Short(fmt.Sprint(p)), "stack", drain.Stack())
		err = &Failed{fmt.Errorf("panic: %v", p)}
		report.Status, report.Reason, report.Version, report.Commit = StatusFailed, drain.Short(err.Error()), h.Version, h.Commit
		if t := record.Termination; t != nil {
			report.InstanceID, report.Group, report.Hook, report.Trigger = t.InstanceID, t.Group, t.Hook, t.Trigger
		}
		if c := record.Claim; c != nil {
			report.Trigger = c.Trigger
		}
	}()
	return h.dispatch(ctx, record)
}

func (h *Handler) dispatch(ctx context.Context, record Record) (Report, error) {
	switch {
	case record.Malformed != nil:
		return h.sendToDLQ(ctx, record)
	case record.NotOurs != "":
		return Report{Status: StatusSkipped, Reason: record.NotOurs}, nil
	case record.Request != nil && record.Request.Action == ActionResume:
		return h.resumeForMessage(ctx)
	case record.Request != nil:
		return h.handleRequest(ctx, *record.Request)
	case record.Claim != nil && record.Claim.Trigger == HealthEvent:
		return h.lookAtNamed(ctx, *record.Claim)
	case record.Claim != nil:
		return h.reportStop(ctx, record)
	}
	return h.terminate(ctx, record)
}

// sendToDLQ moves a malformed record of a batch to the dead-letter queue. Otherwise it would come again for days, and delay its batch
// each time. Without a dead-letter queue, and for a record that came alone, the error goes to the sender.
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

func reports(outcomes []outcome) []Report {
	all := make([]Report, len(outcomes))
	for i, o := range outcomes {
		all[i] = o.report
	}
	return all
}

// firstError returns the error of a delivery that is retried as a whole.
func firstError(outcomes []outcome) error {
	for _, o := range outcomes {
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

func failedItems(records []Record, outcomes []outcome) batchResponse {
	response := batchResponse{Failures: []failedItem{}}
	for i, o := range outcomes {
		if o.isRetried() {
			response.Failures = append(response.Failures, failedItem{records[i].MessageID})
		}
	}
	return response
}
