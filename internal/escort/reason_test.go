package escort

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"quiesce/internal/drain"
)

func TestAddReason_SeveralReasons_AreJoined(t *testing.T) {
	var result drain.EscortResult
	for _, reason := range []string{"", "one", "", "two", "one"} {
		AddReason(&result, reason)
	}
	require.Equal(t, "one; two", result.Reason)
}

// Parts of reasons come from pods and their owners.
func TestAddReason_LongReasons_AreCut(t *testing.T) {
	var result drain.EscortResult
	for range 1000 {
		AddReason(&result, strings.Repeat("a long reason ", 1000))
	}
	require.Len(t, result.Reason, maxText)
	require.True(t, strings.HasSuffix(result.Reason, "…"))
}

func TestPrintable_HostileText_IsOneValidLine(t *testing.T) {
	for _, text := range []string{"", "a", "é", "a\nb\x00\x1b[2J", "\xff\xfe", "\u202e\u2028"} {
		for _, text := range []string{text, strings.Repeat(text, 1000), "x" + strings.Repeat(text, 1000), "xx" + strings.Repeat(text, 1000)} {
			got := Printable(text)
			require.LessOrEqual(t, len(got), maxText)
			require.True(t, utf8.ValidString(got))
			require.False(t, strings.ContainsAny(got, "\n\x00\x1b\u202e\u2028"), "%q", got)
		}
	}
	require.Equal(t, "größe", Printable("größe"))
}
