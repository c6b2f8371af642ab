package lab

import (
	"errors"
	"testing"

	"quiesce/test/parts/need"
	"quiesce/test/parts/tools"
)

// Require says that a test needs the lab's programs.
func Require(t testing.TB) {
	t.Helper()
	need.Part(t, missing())
}

// RequireMachines says that a test needs a lab whose nodes are machines.
func RequireMachines(t testing.TB) {
	t.Helper()
	need.Part(t, errors.Join(missing(), MissingForMachines()))
}

func missing() error {
	var errs []error
	for _, tool := range tools.All() {
		_, err := tools.Path(tool.Name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
