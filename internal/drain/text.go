package drain

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxText bounds a text in a report, in bytes. Webhooks, policies and consoles write such texts, and a report has hundreds of pods.
	// A shorter one would cut what people must read; a longer one would make reports too large for a log line.
	MaxText = 1024
	// maxNames bounds a list of names in a report. A person does not read more.
	maxNames = 20
)

// Short returns a text that comes from outside as a report or a log may have it: valid, and no longer than 1 KB.
func Short(text string) string { return Cut(text, MaxText) }

// Cut returns no more than the first bytes of the text. An ellipsis stands for the rest.
func Cut(text string, most int) string {
	const ellipsis = "…"
	if len(text) > most {
		end := max(0, most-len(ellipsis))
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + ellipsis
	}
	return strings.ToValidUTF8(text, "?")
}

// maxStack bounds the stack of a panic in a log, in bytes. A line of CloudWatch Logs has at most 256 KB, and the top of a stack says most.
const maxStack = 4 << 10

// Stack returns the stack of the calling goroutine for a log: after a panic, in the function that recovers.
func Stack() string { return Cut(string(debug.Stack()), maxStack) }

// Names joins the first names, and says how many more there are.
func Names(names []string, most int) string {
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// Sentence joins the parts that are not empty.
func Sentence(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "; ")
}
