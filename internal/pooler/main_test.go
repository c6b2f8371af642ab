package pooler

import (
	"os"
	"testing"

	parts "quiesce/test/parts/pgbouncer"
)

// TestMain stops the PostgreSQL that the tests share.
func TestMain(m *testing.M) { os.Exit(parts.Run(m)) }
