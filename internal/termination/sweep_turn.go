package termination

import (
	"hash/fnv"
	"time"
)

const (
	// turnInterval is how often a sweep does what each sweep need not do: look at the hook of a group, and at scheduled changes. Each
	// minute would take sixty times the requests, of which the account has few.
	turnInterval = time.Hour
	// turnWindow is for how long a turn lasts. Sweeps begin a minute apart, and some a few seconds late. A shorter window would miss some
	// hours. A longer one takes more turns twice, which only costs requests.
	turnWindow = 75 * time.Second
)

// isTurn reports whether the turn of a name has come. The name says when in each hour, so that not all come together and nothing is kept.
func isTurn(name string, now time.Time) bool {
	hash := fnv.New64a()
	hash.Write([]byte(name))
	due := time.Duration(hash.Sum64() % uint64(turnInterval))
	since := (now.Sub(now.Truncate(turnInterval)) - due + turnInterval) % turnInterval
	return since < turnWindow
}
