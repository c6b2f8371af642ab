package awstest

import (
	"cmp"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultVisibility and longestVisibility are those of AWS (SQS developer guide, "Amazon SQS visibility timeout").
	defaultVisibility = 30 * time.Second
	longestVisibility = 12 * time.Hour
	// longestDelay, in seconds, is that of AWS (SQS developer guide, "Amazon SQS message timers").
	longestDelay = 900
	// maxMessage is the length of a message in bytes, its attributes included
	// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html).
	maxMessage = 1 << 20
	// mostReceived is how many messages one request may receive.
	mostReceived = 10
)

// Queue is a standard queue of SQS.
type Queue struct {
	Name        string
	Visibility  time.Duration // visibility timeout of received messages; default 30 s
	MaxReceives int           // deliveries before a message moves to DeadLetters; 0: no limit
	MaxMessage  int           // MaximumMessageSize in bytes; default 1 MiB
	DeadLetters string        // URL of the dead-letter queue
}

// Message is a message in a queue.
type Message struct {
	ID, Body   string
	Attributes map[string]string // message attributes
	Receives   int
	Visible    time.Time // when it can be received
}

type queue struct {
	Queue
	url      string
	messages []*message
}

type message struct {
	Message
	sent, first time.Time // when it was first received
	handle      string    // of the latest receipt, the only valid one
}

// AddQueue makes a queue.
func (s *Server) AddQueue(q Queue) (url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Visibility == 0 {
		q.Visibility = defaultVisibility
	}
	q.MaxMessage = cmp.Or(q.MaxMessage, maxMessage)
	url = s.api.url() + "/" + Account + "/" + q.Name
	s.account.queues = append(s.account.queues, &queue{Queue: q, url: url})
	return url
}

// SendMessage puts a message into a queue, as EventBridge does, and returns its ID.
func (s *Server) SendMessage(url, body string) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.account.mustQueue(url).put(body, nil).ID
}

// Messages returns the messages in a queue, hidden ones included.
func (s *Server) Messages(url string) (all []Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.account.mustQueue(url).messages {
		all = append(all, m.Message)
	}
	return all
}

func (a *account) queue(url string) *queue {
	if i := slices.IndexFunc(a.queues, func(q *queue) bool { return q.url == url }); i >= 0 {
		return a.queues[i]
	}
	return nil
}

func (a *account) mustQueue(url string) *queue {
	q := a.queue(url)
	if q == nil {
		panic("awstest: no queue " + url)
	}
	return q
}

func (q *queue) put(body string, attributes map[string]string) *message {
	now := time.Now()
	m := &message{Message: Message{ID: newUUID(), Body: body, Attributes: attributes, Visible: now}, sent: now}
	q.messages = append(q.messages, m)
	return m
}

func (q *queue) drop(m *message) {
	q.messages = slices.DeleteFunc(q.messages, func(other *message) bool { return other == m })
}

// receive returns up to n visible messages, oldest first, and hides them. A message that was received too often moves to the
// dead-letter queue.
func (a *account) receive(q *queue, n int) (received []*message) {
	now := time.Now()
	for _, m := range slices.Clone(q.messages) {
		switch {
		case len(received) == n:
			return received
		case m.Visible.After(now):
		case q.MaxReceives > 0 && m.Receives >= q.MaxReceives:
			q.drop(m)
			dead := a.mustQueue(q.DeadLetters)
			dead.messages = append(dead.messages, m)
		default:
			m.Receives++
			m.Visible, m.handle = now.Add(q.Visibility), newUUID()
			if m.first.IsZero() {
				m.first = now
			}
			received = append(received, m)
		}
	}
	return received
}

// held returns the message whose latest receipt has this handle; nil if there is none.
func (q *queue) held(handle string) *message {
	if i := slices.IndexFunc(q.messages, func(m *message) bool { return m.handle == handle }); i >= 0 && handle != "" {
		return q.messages[i]
	}
	return nil
}

var queueActions = map[string]action{
	"SendMessage":             sendMessage,
	"ReceiveMessage":          receiveMessage,
	"DeleteMessage":           deleteMessage,
	"ChangeMessageVisibility": changeVisibility,
	"GetQueueAttributes":      queueAttributes,
}

// queueRequest is the supported part of a request. Other fields are rejected.
type queueRequest struct {
	QueueURL            string `json:"QueueUrl"`
	MessageBody         string
	MessageAttributes   map[string]attributeJSON
	ReceiptHandle       string
	VisibilityTimeout   *int
	MaxNumberOfMessages int
	DelaySeconds        int
	AttributeNames      []string
}

type attributeJSON struct{ DataType, StringValue string }

func (a *account) queueOf(r request, unmodeled ...string) (*queue, queueRequest, *apiError) {
	var asked queueRequest
	if err := json.Unmarshal(r.body, &asked); err != nil {
		return nil, asked, refused(http.StatusBadRequest, "SerializationException", err.Error())
	}
	for _, parameter := range append(unmodeled, "MessageGroupId", "MessageDeduplicationId") {
		if r.params.Has(parameter) {
			return nil, asked, invalidQueueRequest(parameter + " is not modeled by awstest")
		}
	}
	q := a.queue(asked.QueueURL)
	if q == nil {
		return nil, asked, refused(http.StatusBadRequest, "com.amazonaws.sqs#QueueDoesNotExist", "The specified queue does not exist.")
	}
	return q, asked, nil
}

func invalidQueueRequest(message string) *apiError {
	return refused(http.StatusBadRequest, "com.amazonaws.sqs#InvalidParameterValue", message)
}

func sendMessage(a *account, r request) (any, *apiError) {
	q, asked, failure := a.queueOf(r, "MessageSystemAttributes")
	if failure != nil {
		return nil, failure
	}
	if asked.DelaySeconds < 0 || asked.DelaySeconds > longestDelay {
		return nil, invalidQueueRequest(fmt.Sprintf("Value %d for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= 900.", asked.DelaySeconds))
	}
	if asked.MessageBody == "" {
		return nil, refused(http.StatusBadRequest, "com.amazonaws.sqs#MissingParameter", "The request must contain the parameter MessageBody.")
	}
	if strings.ContainsFunc(asked.MessageBody, isRefused) {
		return nil, refused(http.StatusBadRequest, "com.amazonaws.sqs#InvalidMessageContents",
			"Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF")
	}
	attributes, length := map[string]string{}, len(asked.MessageBody)
	for name, value := range asked.MessageAttributes {
		length += len(name) + len(value.DataType) + len(value.StringValue)
		if value.StringValue == "" || (value.DataType != "String" && value.DataType != "Number") {
			return nil, invalidQueueRequest(fmt.Sprintf("The message attribute '%s' must contain a non-empty value of its type.", name))
		}
		attributes[name] = value.StringValue
	}
	if length > q.MaxMessage {
		return nil, invalidQueueRequest(fmt.Sprintf("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", q.MaxMessage))
	}
	sent := q.put(asked.MessageBody, attributes)
	sent.Visible = sent.sent.Add(time.Duration(asked.DelaySeconds) * time.Second)
	return map[string]string{"MessageId": sent.ID, "MD5OfMessageBody": digest(sent.Body)}, nil
}

// isRefused reports whether a message must not have a character (SendMessage, SQS API reference).
func isRefused(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
}

func digest(body string) string {
	sum := md5.Sum([]byte(body))
	return hex.EncodeToString(sum[:])
}

type messageJSON struct {
	MessageID     string `json:"MessageId"`
	ReceiptHandle string
	Body          string
	MD5OfBody     string
	Attributes    map[string]string
}

func receiveMessage(a *account, r request) (any, *apiError) {
	q, asked, failure := a.queueOf(r, "VisibilityTimeout")
	if failure != nil {
		return nil, failure
	}
	messages := []messageJSON{}
	for _, m := range a.receive(q, min(max(1, asked.MaxNumberOfMessages), mostReceived)) {
		messages = append(messages, messageJSON{m.ID, m.handle, m.Body, digest(m.Body), m.systemAttributes()})
	}
	return map[string]any{"Messages": messages}, nil
}

// systemAttributes returns a message's system attributes. Times are in milliseconds since 1970.
func (m *message) systemAttributes() map[string]string {
	return map[string]string{
		"ApproximateReceiveCount":          strconv.Itoa(m.Receives),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first.UnixMilli(), 10),
		"SentTimestamp":                    strconv.FormatInt(m.sent.UnixMilli(), 10),
		"SenderId":                         Account,
	}
}

// deleteMessage succeeds even if an old receipt deletes nothing, as in AWS.
func deleteMessage(a *account, r request) (any, *apiError) {
	q, asked, failure := a.queueOf(r)
	if failure != nil {
		return nil, failure
	}
	if m := q.held(asked.ReceiptHandle); m != nil {
		q.drop(m)
	}
	return struct{}{}, nil
}

func changeVisibility(a *account, r request) (any, *apiError) {
	q, asked, failure := a.queueOf(r)
	if failure != nil {
		return nil, failure
	}
	if asked.VisibilityTimeout == nil || *asked.VisibilityTimeout < 0 || *asked.VisibilityTimeout > int(longestVisibility.Seconds()) {
		return nil, invalidQueueRequest("Value for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and 43200.")
	}
	now, m := time.Now(), q.held(asked.ReceiptHandle)
	switch {
	case m == nil:
		return nil, refused(http.StatusBadRequest, "com.amazonaws.sqs#ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
	case !m.Visible.After(now):
		return nil, refused(http.StatusBadRequest, "com.amazonaws.sqs#MessageNotInflight", "The message referred to isn't in flight.")
	}
	m.Visible = now.Add(time.Duration(*asked.VisibilityTimeout) * time.Second)
	return struct{}{}, nil
}

func queueAttributes(a *account, r request) (any, *apiError) {
	q, asked, failure := a.queueOf(r)
	if failure != nil {
		return nil, failure
	}
	visible, delayed, now := 0, 0, time.Now()
	for _, m := range q.messages {
		switch {
		case !m.Visible.After(now):
			visible++
		case m.Receives == 0:
			delayed++
		}
	}
	all := map[string]int{
		"ApproximateNumberOfMessages":           visible,
		"ApproximateNumberOfMessagesNotVisible": len(q.messages) - visible - delayed,
		"ApproximateNumberOfMessagesDelayed":    delayed,
	}
	attributes := map[string]string{}
	for _, name := range asked.AttributeNames {
		n, known := all[name]
		if !known {
			return nil, invalidQueueRequest("Attribute " + name + " is not modeled by awstest")
		}
		attributes[name] = strconv.Itoa(n)
	}
	return map[string]any{"Attributes": attributes}, nil
}
