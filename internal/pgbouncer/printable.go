package pgbouncer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is the longest text of a server, in bytes, that an error may hold. pgbouncer's own messages have less than 100.
const maxText = 200

// printable returns a server's text in a form for logs and reports: at most about maxText bytes of valid UTF-8 that can be printed. All
// else is escaped as in Go.
func printable(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		piece := text[i : i+size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = fmt.Sprintf(`\x%02x`, text[i])
		case !unicode.IsPrint(r):
			piece = strings.Trim(strconv.QuoteRuneToASCII(r), "'")
		}
		if b.Len()+len(piece) > maxText {
			return b.String() + fmt.Sprintf("... (%d bytes)", len(text))
		}
		b.WriteString(piece)
		i += size
	}
	return b.String()
}

// boundedError is an error with a printable text.
type boundedError struct {
	text  string
	cause error
}

// bounded returns the error with a text that is printable: parts of it may be a server's.
func bounded(err error) error { return &boundedError{printable(err.Error()), err} }

func (e *boundedError) Error() string { return e.text }

// Unwrap returns the error with its whole text.
func (e *boundedError) Unwrap() error { return e.cause }
