// Package need skips or fails tests that need a part which this machine lacks.
package need

import (
	"os"
	"testing"
)

// Part skips the test with the error as its reason, unless the error is nil. With CI=true it fails the test instead: in CI a
// skipped test would go unnoticed.
func Part(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}
