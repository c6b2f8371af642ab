package scram

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The user, password and salt are those of RFC 7677, section 3.
func TestVerifier_ExampleOfTheRFC_Matches(t *testing.T) {
	v, ok := Parse("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")
	require.True(t, ok)
	require.True(t, v.Matches("pencil"))
	require.False(t, v.Matches("pen"))
}

func TestVerifier_Stored_CanBeParsed(t *testing.T) {
	v, err := New("secret", Iterations)
	require.NoError(t, err)
	again, ok := Parse(v.Stored())
	require.True(t, ok)
	require.True(t, again.Matches("secret"))
	require.NotContains(t, v.Stored(), "secret")
}

func TestVerifier_NotASCII_Refused(t *testing.T) {
	_, err := New("pässword", Iterations)
	require.ErrorContains(t, err, "ASCII")
	require.NotContains(t, err.Error(), "pässword")
}
