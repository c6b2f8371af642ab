package pooler

import (
	"context"
	"errors"
	"time"
)

// errOverran: the time for a step, or for the whole escort, is over.
var errOverran = errors.New("the escort's time is over")

// allow gives the escort its time from now on, which never reaches beyond the drain's, nor into the pod's grace.
func (e *run) allow(ctx context.Context) { e.allowBeyond(ctx, 0) }

// allowBeyond adds what the pod itself takes before its pooler is told to stop.
func (e *run) allowBeyond(ctx context.Context, own time.Duration) {
	e.until = time.Now().Add(e.Timeout + own)
	if limit, has := e.limit(ctx); has {
		e.until = earlier(e.until, limit)
	}
}

// limit is when others end the escort, or are about to.
func (e *run) limit(ctx context.Context) (limit time.Time, has bool) {
	limit, has = ctx.Deadline()
	switch {
	case e.request.EvictBy.IsZero():
		return limit, has
	case !has:
		return e.request.EvictBy, true
	}
	return earlier(limit, e.request.EvictBy), true
}

// await waits for done, if there is such a thing, and has something done at once and again and again while it waits.
func await(ctx context.Context, done <-chan struct{}, until time.Time, every time.Duration, do func() error) error {
	timeout := time.NewTimer(time.Until(until))
	defer timeout.Stop()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := do(); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return errOverran
		case <-ticker.C:
		}
	}
}

// poll asks until it is so.
func poll(ctx context.Context, until time.Time, every time.Duration, ask func() (bool, error)) error {
	err := await(ctx, nil, until, every, func() error {
		is, err := ask()
		if err == nil && is {
			return errSo
		}
		return err
	})
	if errors.Is(err, errSo) {
		return nil
	}
	return err
}

// errSo: what was asked for is so.
var errSo = errors.New("it is so")

// pass lets time go by.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// earlier is the earlier of two times.
func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
