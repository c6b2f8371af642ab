package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// errPanic begins the error of a panic.
var errPanic = errors.New("panic")

// safely calls do, and returns an error if it panics: a panic in a goroutine of its own would end the process, with poolers paused. The
// stack is logged, and not reported.
func safely(do func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%w: %s", errPanic, escort.Printable(fmt.Sprint(cause)))
			slog.Error("panic recovered", "error", err.Error(), "stack", drain.Stack())
		}
	}()
	return do()
}

// parallel runs jobs at once, and joins their errors.
func parallel(jobs []func() error) error {
	errs := make([]error, len(jobs))
	var group sync.WaitGroup
	for i, job := range jobs {
		group.Go(func() { errs[i] = safely(job) })
	}
	group.Wait()
	return errors.Join(errs...)
}
