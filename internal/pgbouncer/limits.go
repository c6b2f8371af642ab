package pgbouncer

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
)

// What a server may send. Any pod can have the labels of a pooler, so a server that only claims to be pgbouncer must not fill our memory
// or take our time.
const (
	// maxRows has room for every client of a very large pgbouncer: it has one process and one thread, and most run out of either, or of
	// file descriptors, below 10,000. A larger table is an error, and the pod is evicted without draining.
	maxRows = 20_000
	// maxAnswer bounds the bytes of a login, or of the answer to one command. SHOW CLIENTS has 300 bytes for each client.
	maxAnswer = 8 << 20
	// maxMessage bounds one message, the longest of which is a row of SHOW CONFIG with a list of users.
	maxMessage = 16 << 10
	// maxColumns is four times what the widest table has: SHOW CLIENTS of 1.24 has 27 columns.
	maxColumns = 128
	// maxOthers bounds the messages of an answer that are no rows. An answer has three, and a login of pgbouncer about 15.
	maxOthers = 200
	// maxStatuses bounds the parameters that a server reports while a connection lasts, each of which is kept. pgbouncer reports eight.
	maxStatuses = 100
	// maxAuthMessage bounds a message of an authentication. The longest one of SCRAM has 100 bytes.
	maxAuthMessage = 2 << 10
	// maxIterations bounds the work of a SCRAM login. The default is 4,096
	// (https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-SCRAM-ITERATIONS). This many cost 50 ms of a processor;
	// the ten million that pgx accepts cost seconds.
	maxIterations = 100_000
	// maxSalt and maxNonce bound what is hashed, in bytes. PostgreSQL sends 16 and 48.
	maxSalt, maxNonce = 64, 256
)

// limitError is the error of a server that sends too much.
type limitError struct {
	reason  string
	foreign bool // a message of this length is more likely another protocol
}

func (e *limitError) Error() string { return e.reason }

// Is makes it an ErrLimit.
func (*limitError) Is(target error) bool { return target == ErrLimit }

func tooMuch(format string, args ...any) error {
	return &limitError{reason: fmt.Sprintf(format, args...)}
}

// allowance is what the server may still send in the present answer.
type allowance struct {
	bytes, rows, others atomic.Int64
	exceeded            atomic.Pointer[limitError] // the first limit that was exceeded; pgconn does not always return it
}

// note keeps the first limitError, and returns the error as it is.
func (a *allowance) note(err error) error {
	if limit, is := errors.AsType[*limitError](err); is {
		a.exceeded.CompareAndSwap(nil, limit)
	}
	return err
}

// renew starts an answer.
func (a *allowance) renew() {
	a.bytes.Store(maxAnswer)
	a.rows.Store(maxRows)
	a.others.Store(maxOthers)
}

// limitedConn is a connection from which only a limited number of bytes can be read, those of TLS included.
type limitedConn struct {
	net.Conn
	allowance
}

// newLimitedConn limits a connection. Its end discards what has not arrived: an old RESUME or SET could come in the middle of another move. By
// default the kernel goes on sending it for a minute or more, also when the process has died.
func newLimitedConn(conn net.Conn) *limitedConn {
	limited := &limitedConn{Conn: conn}
	limited.renew()
	if tcp, is := conn.(discarder); is {
		_ = tcp.SetLinger(0) // it fails only on a connection that has ended
	}
	return limited
}

// discarder is a connection that can discard what has not arrived. A forwarded one cannot.
type discarder interface{ SetLinger(seconds int) error }

// isForwarded reports whether what was sent may arrive after the end of the connection.
func (l *limitedConn) isForwarded() bool {
	_, is := l.Conn.(discarder)
	return !is
}

// Read turns a panic into an error: pgconn reads in a goroutine of its own while a write takes longer than usual, and nothing else could
// recover there.
func (l *limitedConn) Read(p []byte) (n int, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			n, err = 0, l.note(fmt.Errorf("panic: %s", printable(fmt.Sprint(cause))))
		}
	}()
	if l.bytes.Load() <= 0 {
		return 0, l.note(tooMuch("the answer exceeds %d MiB", maxAnswer>>20))
	}
	n, err = l.Conn.Read(p)
	l.bytes.Add(-int64(n))
	return n, err
}

// messageReader reads the server's messages, and checks each one before the first byte of it is passed on. A read that a deadline
// interrupts can be repeated.
type messageReader struct {
	from      *bufio.Reader
	allowance *allowance
	left      int // bytes of the present message that were not passed on yet
	statuses  int // parameters that were reported
	continued bool
}

// messageHeader is the length of a message's type and length
// (https://www.postgresql.org/docs/current/protocol-message-formats.html).
const messageHeader = 5

func newMessageReader(from io.Reader, a *allowance) *messageReader {
	return &messageReader{from: bufio.NewReaderSize(from, messageHeader+maxAuthMessage), allowance: a}
}

func (m *messageReader) Read(p []byte) (int, error) {
	if m.left == 0 {
		length, err := m.check()
		if err != nil {
			return 0, m.allowance.note(err)
		}
		m.left = length
	}
	n, err := m.from.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// check returns the length of the next message if it is within the limits.
func (m *messageReader) check() (length int, err error) {
	header, err := m.from.Peek(messageHeader)
	if err != nil {
		return 0, err
	}
	kind, body := header[0], int64(binary.BigEndian.Uint32(header[1:]))-(messageHeader-1)
	if body < 0 || body > maxMessage {
		return 0, &limitError{reason: fmt.Sprintf("a message of %d bytes", body), foreign: true}
	}
	if err := m.checkKind(kind, int(body)); err != nil {
		return 0, err
	}
	return messageHeader + int(body), nil
}

// checkKind checks the message as one of its kind.
func (m *messageReader) checkKind(kind byte, body int) error {
	const authentication, dataRow, rowDescription, parameterStatus = 'R', 'D', 'T', 'S'
	left := &m.allowance.others
	switch kind {
	case dataRow:
		left = &m.allowance.rows
		fallthrough
	case rowDescription:
		if err := m.checkColumns(body); err != nil {
			return err
		}
	case authentication:
		if err := m.checkAuthentication(body); err != nil {
			return err
		}
	case parameterStatus:
		if m.statuses++; m.statuses > maxStatuses {
			return tooMuch("more than %d parameters", maxStatuses)
		}
	}
	if left.Add(-1) < 0 {
		return tooMuch("more than %d rows, or %d other messages", maxRows, maxOthers)
	}
	return nil
}

// checkColumns checks the number with which a row and the description of rows begin.
func (m *messageReader) checkColumns(body int) error {
	if body < 2 {
		return nil // the decoder refuses it
	}
	start, err := m.from.Peek(messageHeader + 2)
	if err != nil {
		return err
	}
	if columns := binary.BigEndian.Uint16(start[messageHeader:]); columns > maxColumns {
		return tooMuch("a table of %d columns", columns)
	}
	return nil
}

// checkAuthentication checks the message in which a server chooses the salt and the iterations of SCRAM
// (https://www.rfc-editor.org/rfc/rfc5802#section-7). The client hashes what it says before it knows the server. So there is one such
// message in a login.
func (m *messageReader) checkAuthentication(body int) error {
	const saslContinue, code = 11, 4
	if body > maxAuthMessage {
		return tooMuch("an authentication message of %d bytes", body)
	}
	message, err := m.from.Peek(messageHeader + body)
	if err != nil {
		return err
	}
	data := message[messageHeader:]
	if len(data) < code || binary.BigEndian.Uint32(data) != saslContinue {
		return nil
	}
	if m.continued {
		return tooMuch("a second SCRAM challenge")
	}
	m.continued = true
	return checkChallenge(string(data[code:]))
}

// checkChallenge checks a challenge of SCRAM: r=nonce,s=salt,i=iterations. The client refuses any other form.
func checkChallenge(challenge string) error {
	parts := strings.SplitN(challenge, ",", 3)
	if len(parts) < 3 {
		return nil
	}
	salt := base64.StdEncoding.DecodedLen(len(parts[1]) - len("s="))
	iterations, err := strconv.Atoi(strings.TrimPrefix(parts[2], "i="))
	switch {
	case err != nil:
		return nil
	case len(parts[0]) > maxNonce:
		return tooMuch("a SCRAM nonce of %d bytes; %d are accepted", len(parts[0]), maxNonce)
	case salt > maxSalt:
		return tooMuch("a SCRAM salt of %d bytes; %d are accepted", salt, maxSalt)
	case iterations > maxIterations:
		return tooMuch("SCRAM with %d iterations; %d are accepted. Store the password with fewer (scram_iterations)", iterations, maxIterations)
	default:
		return nil
	}
}
