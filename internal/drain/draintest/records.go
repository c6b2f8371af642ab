package draintest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Records is a Lease in memory. The zero value is ready to use.
type Records struct {
	mutex sync.Mutex
	texts map[string]string
	err   error
}

// Record implements drain.Records.
func (r *Records) Record(key string) string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.texts[key]
}

// Keys returns the rest of the keys that begin with the prefix, in order.
func (r *Records) Keys(prefix string) (rest []string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for key := range r.texts {
		if after, is := strings.CutPrefix(key, prefix); is {
			rest = append(rest, after)
		}
	}
	slices.Sort(rest)
	return rest
}

// SetRecord implements drain.Records.
func (r *Records) SetRecord(_ context.Context, key, text string) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	switch {
	case r.err != nil:
		return r.err
	case text == "":
		delete(r.texts, key)
		return nil
	case r.texts == nil:
		r.texts = map[string]string{}
	}
	r.texts[key] = text
	return nil
}

// Fail makes every SetRecord from now on return this error.
func (r *Records) Fail(err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.err = err
}

// All returns a copy of the records, by key.
func (r *Records) All() map[string]string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return maps.Clone(r.texts)
}
