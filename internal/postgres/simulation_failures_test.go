package postgres

import (
	"context"
	"errors"
	"strings"
	"time"

	"quiesce/internal/escort"
)

var errUnheard = errors.New("the answer was lost")

func (s *simulation) isFailing() bool { return !s.clean && time.Since(s.began) < failuresEnd }

// ask lets a call take its time, or fail before it has an effect. Consoles and members may hang.
func (s *simulation) ask(ctx context.Context, i *incarnation, what string) error {
	wait, failure := s.fate(i, what)
	if err := escort.Sleep(ctx, wait); err != nil {
		return err
	}
	return failure
}

func (s *simulation) fate(i *incarnation, what string) (wait time.Duration, failure error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	name, console := strings.CutPrefix(what, "console ")
	member, live := strings.CutPrefix(what, "live ")
	hangs := console && time.Now().Before(s.slowUntil[name]) || live && (s.frozen[member])
	switch {
	case console && s.poolers[name].gone:
		return s.latency, errors.New("the connection is closed")
	case hangs:
		s.excuse(name)
		return 15 * time.Second, errors.New("no answer")
	case !s.isFailing():
		return s.latency, nil
	case s.happens(i.name+" slow "+what, s.slow):
		s.excuse(name)
		return s.latency + time.Duration(s.draw(i.name+" long "+what)%5000)*time.Millisecond, nil
	case s.happens(i.name+" fail "+what, s.failing):
		s.excuse(name)
		return s.latency, errors.New("the service is down")
	}
	return s.latency, nil
}

// excuse notes that a pooler's console failed. Its clients may wait for that too.
func (s *simulation) excuse(name string) {
	if p := s.poolers[name]; p != nil {
		p.excused = time.Now()
	}
}

// loses reports whether the answer to an effect is lost.
func (s *simulation) loses(i *incarnation, what string) bool {
	if !s.isFailing() || !s.happens(i.name+" lost "+what, s.unheard) {
		return false
	}
	if _, name, ok := strings.Cut(what, " "); ok {
		s.excuse(name)
	}
	s.counts["answer lost"]++
	return true
}

func (s *simulation) happens(what string, ofThousand int) bool {
	return ofThousand > 0 && s.draw(what)%1000 < uint64(ofThousand)
}

// draw returns the next number of its kind, by the seed.
func (s *simulation) draw(what string) uint64 {
	s.drawn[what]++
	x := s.seed*0x9E3779B97F4A7C15 ^ s.drawn[what]*0xBF58476D1CE4E5B9
	for _, c := range what {
		x = (x ^ uint64(c)) * 0x100000001B3
	}
	x ^= x >> 31
	x *= 0xD6E8FEB86659FD93
	return x ^ x>>32
}
