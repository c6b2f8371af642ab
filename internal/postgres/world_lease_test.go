package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"quiesce/internal/escort"
)

type worldLease struct {
	mark   string
	holder *incarnation
	since  time.Time // when it was taken
	until  time.Time // when a dead holder's Lease expires

	expired bool // its holder lives, and could not renew it
}

func (i *incarnation) AcquireMarkedLease(ctx context.Context, name string) (escort.MarkedLease, error) {
	if err := i.ask(ctx, "acquire"); err != nil {
		return nil, err
	}
	defer i.enter()()
	l := i.leases[name]
	if l == nil {
		l = &worldLease{}
		i.leases[name] = l
	}
	if l.isHeld() {
		return nil, nil
	}
	if err := i.answer("acquire"); err != nil { // nobody renews it
		l.holder, l.until = &incarnation{world: i.world, dead: true}, time.Now().Add(30*time.Second)
		return nil, err
	}
	l.holder, l.since, l.expired, i.assured = i, time.Now(), false, time.Now()
	return &heldLease{i, l}, nil
}

func (l *worldLease) isHeld() bool {
	return l.holder != nil && !l.expired && (!l.holder.dead || time.Now().Before(l.until))
}

type heldLease struct {
	i *incarnation
	*worldLease
}

func (l *heldLease) Mark() string { return l.mark }

func (l *heldLease) Lost() error {
	l.i.mutex.Lock()
	defer l.i.mutex.Unlock()
	var err error
	if !l.i.isBlind() {
		err = l.lost()
	}
	if err != nil && time.Now().Before(l.i.unsure) {
		err = errors.New("it could not be renewed in time")
	}
	l.i.learn(err)
	return err
}

// learn notes what the invocation is told of its Leases.
func (i *incarnation) learn(lost error) {
	if lost != nil {
		i.blind = time.Time{}
	} else {
		i.assured = time.Now()
	}
}

func (l *heldLease) lost() error {
	switch {
	case l.holder == l.i:
		return nil
	case l.holder == nil:
		return errors.New("it was deleted")
	}
	return fmt.Errorf("%w: %s", escort.ErrTaken, l.holder.name)
}

func (l *heldLease) SetMark(ctx context.Context, text string) error {
	if err := l.i.ask(ctx, "mark"); err != nil {
		return err
	}
	defer l.i.enter()()
	err := l.lost()
	if l.i.learn(err); err != nil {
		return err
	}
	if l.mark == text {
		return nil
	}
	l.i.sim.checkMark(l, text)
	l.mark = text
	if len(text) > len(l.i.largest) {
		l.i.largest = text
	}
	l.i.effect("mark %t", text != "")
	return l.i.answer("mark")
}

func (l *heldLease) Release() error {
	defer l.i.enter()()
	if l.holder == l.i {
		l.holder = nil
	}
	return nil
}

func (i *incarnation) Marks(ctx context.Context, prefix string) (marks []escort.Mark, err error) {
	if err := i.ask(ctx, "marks"); err != nil {
		return nil, err
	}
	defer i.enter()()
	if i.unmarked {
		return nil, errors.New("forbidden")
	}
	for name, l := range i.leases {
		if strings.HasPrefix(name, prefix) && l.mark != "" {
			marks = append(marks, escort.Mark{Lease: name, Text: l.mark, Held: l.isHeld(), Taken: l.since})
		}
	}
	return marks, nil
}
