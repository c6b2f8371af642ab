package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/scram"
)

func TestSecret_PasswordOrVerifier_IsKnownAndStored(t *testing.T) {
	v, err := scram.New("pencil", scram.Iterations)
	require.NoError(t, err)
	again, err := scram.New("pencil", scram.Iterations)
	require.NoError(t, err)
	require.True(t, secret{"pencil"}.isSet(v.Stored()))
	require.False(t, secret{"pencils"}.isSet(v.Stored()))
	require.False(t, secret{"pencil"}.isSet("md5a6a0e3b0e6e29f1e5b8f1c8a8b7f1c9e"))
	require.True(t, secret{v.Stored()}.isSet(v.Stored()), "a Secret may hold the verifier")
	require.False(t, secret{again.Stored()}.isSet(v.Stored()))
	kept, err := secret{v.Stored()}.toStore(1)
	require.NoError(t, err)
	require.Equal(t, v.Stored(), kept)
}

func TestSecret_Printed_Stars(t *testing.T) {
	s := secret{"pencil"}
	require.Equal(t, "*** *** *** ***", fmt.Sprintf("%s %v %+v %#v", s, s, s, s))
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", role{Password: &s}, role{Password: &s}, role{Password: &s}), "pencil")
}
