package termination

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// A delivery that is retried as a whole must not hide the failure of one of its records.
func TestFirstError_SomeRecordsFailed_IsReturned(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	require.Equal(t, first, firstError([]outcome{{}, {err: first}, {err: second}}))
	require.NoError(t, firstError([]outcome{{}, {}}))
}
