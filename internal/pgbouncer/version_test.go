package pgbouncer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseVersion_ServerVersion_IsBeforeSlash(t *testing.T) {
	for text, want := range map[string]Version{
		"1.18.0/bouncer":    {1, 18, 0},
		"1.24.1/bouncer":    {1, 24, 1},
		"1.25.0dev/bouncer": {1, 25, 0},
		"1.7/bouncer":       {1, 7, 0},
		"2.0.0/bouncer":     {2, 0, 0},
	} {
		got, err := parseVersion(text)
		require.NoError(t, err)
		require.Equal(t, want, got, text)
	}
}

func TestParseVersion_OtherText_NotPgbouncer(t *testing.T) {
	for _, text := range []string{
		"", "15.18", "15.18 (Debian 15.18-0+deb12u1)", "bouncer", "/bouncer", "1.24.1", "1.24.1/odyssey", "1/bouncer",
		"1.24.1/bouncer/2", "99999999999999999999.1.1/bouncer",
	} {
		_, err := parseVersion(text)
		require.ErrorIs(t, err, ErrNotPgbouncer, text)
	}
}

func TestAtLeast_Versions_CompareByNumber(t *testing.T) {
	v := Version{1, 23, 0}
	require.True(t, v.AtLeast(1, 23))
	require.True(t, v.AtLeast(1, 9))
	require.True(t, v.AtLeast(0, 99))
	require.False(t, v.AtLeast(1, 24))
	require.False(t, v.AtLeast(2, 0))
	require.Equal(t, "1.23.0", v.String())
}
