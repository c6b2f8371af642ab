package lab

import (
	"errors"
	"os"
	"testing"

	"quiesce/test/tools"
)

// Require skips the test, saying why, when programs of the lab are not built. Where the environment has CI=true it
// fails the test instead: there nobody would notice.
func Require(t testing.TB) {
	t.Helper()
	demand(t, missing())
}

// RequireMachines does likewise for a lab whose nodes are machines.
func RequireMachines(t testing.TB) {
	t.Helper()
	demand(t, errors.Join(missing(), MissingForMachines()))
}

func demand(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("the lab cannot run: %v", err)
	default:
		t.Skipf("the lab cannot run: %v", err)
	}
}

func missing() error {
	var faults []error
	for _, tool := range tools.All() {
		_, err := tools.Path(tool.Name)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
