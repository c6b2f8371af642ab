package asg

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"quiesce/internal/termination"
)

const (
	// maxReceives is the largest maxReceiveCount of a queue
	// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html).
	maxReceives = 1000
	// maxRetention is how long SQS keeps a message at most
	// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html).
	maxRetention = 14 * 24 * time.Hour
	// maxSkew is how far the clock of SQS may be ahead of ours. AWS synchronizes both to milliseconds.
	maxSkew = time.Minute
)

// Parse reads the payload of an invocation: one event, a batch of SQS or SNS records, or a manual request. It checks only the
// form. The configuration decides whether a record is ours, and Auto Scaling whether it is true. An unreadable record has
// Malformed set, which says what is wrong and where. It does not affect the other records of its batch. A delivery has at
// least one record.
//
// The forms of batches: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and
// https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html.
func Parse(payload []byte) termination.Delivery {
	object, err := objectOf(payload)
	records, batched := object["Records"]
	switch {
	case err != nil:
		return direct(payload, malformed(err))
	case batched:
		return parseBatch(payload, records)
	case object.has("action"):
		return direct(payload, parseRequest(payload, object))
	}
	return direct(payload, parseEvent(payload, object))
}

func direct(payload []byte, record termination.Record) termination.Delivery {
	record.Body = string(payload)
	return termination.Delivery{Source: termination.Direct, Records: []termination.Record{record}}
}

// sources are the services whose batches Parse reads, by the name in their records.
var sources = map[string]termination.Source{"aws:sqs": termination.SQS, "aws:sns": termination.SNS}

func parseBatch(payload []byte, records json.RawMessage) termination.Delivery {
	var elements []json.RawMessage
	if err := decode(records, &elements); err != nil {
		return direct(payload, located("Records", malformed(err)))
	}
	source, err := sourceOf(elements)
	if err != nil {
		return direct(payload, located("Records", malformed(err)))
	}
	parse := parseSQS
	if source == termination.SNS {
		parse = parseSNS
	}
	delivery := termination.Delivery{Source: source}
	for i, element := range elements {
		delivery.Records = append(delivery.Records, parse(fmt.Sprintf("Records[%d]", i), element))
	}
	return delivery
}

// sourceOf returns the service that sent a batch. The first record with a known name decides: Lambda never mixes services.
func sourceOf(elements []json.RawMessage) (termination.Source, error) {
	if len(elements) == 0 {
		return 0, errors.New("empty")
	}
	named := ""
	for _, element := range elements {
		var record struct {
			EventSource string `json:"eventSource"` // SNS writes EventSource; encoding/json takes either
		}
		// An unreadable record names no service. Its own error is reported once the service is known.
		_ = decode(element, &record)
		if source, known := sources[record.EventSource]; known {
			return source, nil
		}
		named = record.EventSource
	}
	return 0, fmt.Errorf("eventSource must be aws:sqs or aws:sns, not %s", quoted(named))
}

func parseSQS(path string, element json.RawMessage) termination.Record {
	var message struct {
		MessageID     string `json:"messageId"`
		ReceiptHandle string `json:"receiptHandle"`
		Body          string `json:"body"`
		Attributes    struct {
			Receives string `json:"ApproximateReceiveCount"`
			First    string `json:"ApproximateFirstReceiveTimestamp"`
		} `json:"attributes"`
	}
	err := decode(element, &message)
	record := unwrap(path, "body", message.Body, err, parseBody)
	record.MessageID, record.ReceiptHandle = message.MessageID, message.ReceiptHandle
	record.Receives = parseReceives(message.Attributes.Receives)
	record.FirstReceived = parseFirstReceived(message.Attributes.First)
	return keepBody(record, message.Body, element)
}

// parseReceives reads how often SQS delivered a message, approximately. A direct invocation can claim anything: the count stays
// between zero, which stands for unknown, and what a queue allows.
func parseReceives(text string) int {
	n, _ := strconv.Atoi(text) // the nearest number, if it is out of range
	return max(0, min(n, maxReceives))
}

// parseFirstReceived reads when SQS delivered a message first, in milliseconds since 1970. Zero stands for unknown: SQS did not say, or
// cannot have meant it.
func parseFirstReceived(text string) time.Time {
	millis, err := strconv.ParseInt(text, 10, 64)
	at, now := time.UnixMilli(millis), time.Now()
	if err != nil || at.Before(now.Add(-maxRetention)) || at.After(now.Add(maxSkew)) {
		return time.Time{}
	}
	return at
}

func parseSNS(path string, element json.RawMessage) termination.Record {
	var record struct {
		SNS struct {
			MessageID string `json:"MessageId"`
			Message   string `json:"Message"`
		} `json:"Sns"`
	}
	err := decode(element, &record)
	parsed := unwrap(path, "Sns.Message", record.SNS.Message, err, parseText)
	parsed.MessageID = record.SNS.MessageID
	return keepBody(parsed, record.SNS.Message, element)
}

// unwrap parses the text under key in a record. Its error says where in the batch the record is. err is the error from decoding
// the record itself.
func unwrap(path, key, text string, err error, parse func(string) termination.Record) termination.Record {
	switch {
	case err != nil:
		return malformed(fmt.Errorf("%s: %w", path, err))
	case text == "":
		return malformed(fmt.Errorf("%s.%s: missing", path, key))
	}
	return located(path+"."+key, parse(text))
}

// keepBody sets the body for the dead-letter queue. SQS accepts no empty message, so a record without text goes there whole.
func keepBody(record termination.Record, text string, element json.RawMessage) termination.Record {
	record.Body = text
	if text == "" {
		record.Body = string(element)
	}
	return record
}

// parseBody reads an SQS message: an event, or the SNS envelope of one
// (https://docs.aws.amazon.com/sns/latest/dg/sns-sqs-as-subscriber.html).
func parseBody(body string) termination.Record {
	object, err := objectOf([]byte(body))
	if err != nil {
		return malformed(err)
	}
	switch {
	case object.has("action"):
		return parseQueued([]byte(body), object)
	case !object.has("Message"):
		return parseEvent([]byte(body), object)
	}
	var message string
	if err := decode(object["Message"], &message); err != nil {
		return located("Message", malformed(err))
	}
	return located("Message", parseText(message))
}

// parseQueued reads a request that came through the queue. Only a move that is about to pause poolers sends one, and all it asks for is
// that nothing stays paused. Who else can write to the queue can ask for no more.
func parseQueued(body []byte, object object) termination.Record {
	record := parseRequest(body, object)
	if record.Request != nil && record.Request.Action != termination.ActionResume {
		return malformed(fmt.Errorf("action: only resume may come through a queue, not %s", quoted(string(record.Request.Action))))
	}
	return record
}

func parseText(text string) termination.Record {
	object, err := objectOf([]byte(text))
	if err != nil {
		return malformed(err)
	}
	return parseEvent([]byte(text), object)
}

func malformed(err error) termination.Record {
	return termination.Record{Malformed: err}
}

// located adds the place of a malformed record to its error.
func located(path string, record termination.Record) termination.Record {
	if record.Malformed != nil {
		record.Malformed = fmt.Errorf("%s: %w", path, record.Malformed)
	}
	return record
}
