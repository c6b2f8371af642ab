package main

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"quiesce/test/env/worker/journal"
	"quiesce/test/parts/ports"
)

// server speaks enough of PostgreSQL's protocol for a worker, and keeps the committed rows.
type server struct {
	url string
	// answer returns what to do with a statement, the count-th with this first word.
	answer func(verb string, count int) response

	mu           sync.Mutex
	asked        map[string]int
	rows         map[int][]int64
	logins       int
	terminations int // connections that sent Terminate
}

type response int

const (
	reply        response = iota
	hangUp                // without executing the statement
	doThenHangUp          // after executing it, so that the client does not know
	noAnswer
)

func serve(t *testing.T, answer func(verb string, count int) response) *server {
	s := &server{answer: answer, asked: map[string]int{}, rows: map[int][]int64{}}
	s.url = fmt.Sprintf("postgres://worker@%s/app?sslmode=disable", ports.Serve(t, s.serveConn))
	return s
}

// serveConn serves one connection until it ends.
func (s *server) serveConn(conn net.Conn) {
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	s.count(&s.logins)
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	var row row
	for backend.Flush() == nil {
		message, err := backend.Receive()
		if err != nil {
			return
		}
		query, ok := message.(*pgproto3.Query)
		if !ok {
			s.count(&s.terminations)
			return
		}
		switch s.execute(query.String, &row) {
		case hangUp, doThenHangUp:
			return
		case reply:
			backend.Send(&pgproto3.CommandComplete{CommandTag: []byte(query.String)})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'T'})
		}
	}
}

func (s *server) count(what *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*what++
}

// row is what the present transaction inserts.
type row struct {
	worker int
	n      int64
}

func (s *server) execute(sql string, row *row) response {
	s.mu.Lock()
	defer s.mu.Unlock()
	verb, _, _ := strings.Cut(sql, " ")
	s.asked[verb]++
	act := s.answer(verb, s.asked[verb])
	if act == hangUp || act == noAnswer {
		return act
	}
	switch verb {
	case "INSERT":
		_, _ = fmt.Sscanf(sql, "INSERT INTO commits(worker, n) VALUES (%d, %d)", &row.worker, &row.n)
	case "COMMIT":
		s.rows[row.worker] = append(s.rows[row.worker], row.n)
	}
	return act
}

// compare compares the workers with the rows.
func (s *server) compare(workers []journal.Worker) journal.Comparison {
	s.mu.Lock()
	defer s.mu.Unlock()
	return journal.Compare(workers, s.rows)
}
