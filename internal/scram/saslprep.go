package scram

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
)

// saslprep prepares a password as PostgreSQL does (RFC 4013; "SCRAM Authentication" in PostgreSQL's documentation of SASL): so a client
// that types it otherwise, such as with composed letters, has the same keys. A password that RFC 4013 forbids is used as it is.
func saslprep(password string) string {
	if isASCII(password) || !utf8.ValidString(password) {
		return password
	}
	text := strings.Map(mapped, password)
	if text == "" || strings.ContainsFunc(text, isProhibited) || !isOneDirection(text) { // PostgreSQL looks before it normalizes
		return password
	}
	return norm.NFKC.String(text)
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf })
}

// mapped is the mapping of RFC 4013, section 2.1: other spaces to a space (table C.1.2), and to nothing (B.1).
func mapped(r rune) rune {
	switch {
	case r == 0x200b: // in both tables, and PostgreSQL looks at the spaces first
		return ' '
	case r == 0xad, r == 0x34f, r == 0x1806, 0x180b <= r && r <= 0x180d, 0x200c <= r && r <= 0x200d, r == 0x2060, 0xfe00 <= r && r <= 0xfe0f, r == 0xfeff:
		return -1
	case isOtherSpace(r):
		return ' '
	}
	return r
}

func isOtherSpace(r rune) bool {
	return r == 0xa0 || r == 0x1680 || 0x2000 <= r && r <= 0x200b || r == 0x202f || r == 0x205f || r == 0x3000
}

// prohibited are tables C.2.1, C.2.2, and C.4 to C.9 of RFC 3454. C.3 is the category of private use. The last two code points of each
// plane are isProhibited's.
var prohibited = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x0, 0x1f, 1}, {0x7f, 0x9f, 1}, {0x340, 0x341, 1}, {0x6dd, 0x6dd, 1}, {0x70f, 0x70f, 1}, {0x180e, 0x180e, 1}, {0x200c, 0x200f, 1},
		{0x2028, 0x202e, 1}, {0x2060, 0x2063, 1}, {0x206a, 0x206f, 1}, {0x2ff0, 0x2ffb, 1}, {0xd800, 0xdfff, 1}, {0xfdd0, 0xfdef, 1},
		{0xfeff, 0xfeff, 1}, {0xfff9, 0xfffd, 1},
	},
	R32: []unicode.Range32{{0x1d173, 0x1d17a, 1}, {0xe0001, 0xe0001, 1}, {0xe0020, 0xe007f, 1}},
}

func isProhibited(r rune) bool {
	return isOtherSpace(r) || r&0xfffe == 0xfffe || unicode.In(r, prohibited, unicode.Co, unassigned)
}

// isOneDirection is the check of RFC 3454, section 6: text with a letter that is written from right to left has none of the other
// direction, and begins and ends with one.
func isOneDirection(text string) bool {
	if !strings.ContainsFunc(text, isRightToLeft) {
		return true
	}
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	return isRightToLeft(first) && isRightToLeft(last) && !strings.ContainsFunc(text, isLeftToRight)
}

func isRightToLeft(r rune) bool {
	class := classOf(r)
	return class == bidi.R || class == bidi.AL
}

func isLeftToRight(r rune) bool { return classOf(r) == bidi.L }

func classOf(r rune) bidi.Class {
	properties, _ := bidi.LookupRune(r)
	return properties.Class()
}
