package pgbouncer

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"time"

	"quiesce/internal/drain"
)

// Strategy is how a pooler is made to leave.
type Strategy string

// The strategies. Plain is what is left where no console answers: an eviction and nothing more.
const (
	Auto  Strategy = "auto"
	Evict Strategy = "evict"
	Surge Strategy = "surge"
	Plain Strategy = "plain"
)

// Settings say how poolers of a phase are escorted.
type Settings struct {
	Strategy Strategy
	Timeout  time.Duration // of one pod's escort, waiting for its turn excluded
	Patience time.Duration // of a surge for its replacement: the phase's timeout
	Port     int           // of the console; zero: the pooler's own
	Forward  bool          // reach the console over the API server, not at the pod's address
	TLS      TLSMode
}

// Escort implements drain.Escort for pgbouncer.
type Escort struct {
	Settings
	Connect func(ctx context.Context) (Kubernetes, error)
	Dial    func(ctx context.Context, address string) (net.Conn, error)         // to a pod's address
	Logins  func(ctx context.Context, namespace string) iter.Seq2[Login, error] // that this namespace's poolers may be shown
	Log     *slog.Logger
}

// escorting is one pod's escort under way.
type escorting struct {
	*Escort
	k       Kubernetes
	pod     Pod
	evict   func(context.Context, drain.EvictOptions) error
	console *Console // logged in once, before the first act, and held to the end
	result  drain.Escorted
}
