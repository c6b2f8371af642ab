package cloudnativepg

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// PostgreSQL takes only this form for a verifier, and hashes anything else. With this salt, Python's hashlib gives the same keys.
func TestVerifier_AsPostgreSQLKeepsIt(t *testing.T) {
	require.Equal(t, "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$nPZYJaHeAmZ8j+RWy/dHtl9LhE+Np/NgujtVoCGeJXE=:A80UqWc/BG8MEa+vksb7408e5+NQQM5e9sdawVo260o=", verifier())
}
