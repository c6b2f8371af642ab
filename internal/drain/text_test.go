package drain

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCut_OnlyLongerText_IsCutBetweenCharacters(t *testing.T) {
	for text, want := range map[string]string{
		"abcdef": "abcdef", "abcdefg": "abc…", "abé": "abé", "abédef": "ab…", "\x80\x80\x80\x80\x80\x80\x80": "…", "\x80": "?",
	} {
		require.Equal(t, want, Cut(text, 6), "%q", text)
	}
}
