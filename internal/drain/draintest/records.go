package draintest

import (
	"context"
	"maps"
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

// Any reports whether there is a record whose key begins with the prefix.
func (r *Records) Any(prefix string) bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for key := range r.texts {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
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
