package lab

import (
	"errors"
	"testing"

	"quiesce/test/parts/need"
	"quiesce/test/parts/tools"
)

// Require skips or fails a test without the lab's programs.
func Require(t testing.TB) {
	t.Helper()
	need.Part(t, missing())
}

// RequireMachines skips or fails a test on a host that cannot run machines.
func RequireMachines(t testing.TB) {
	t.Helper()
	need.Part(t, errors.Join(missing(), MissingForMachines()))
}

func missing() error {
	needed, err := tools.Lab()
	if err != nil {
		return err
	}
	var errs []error
	for _, tool := range needed {
		_, err := tools.Path(tool.Name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
