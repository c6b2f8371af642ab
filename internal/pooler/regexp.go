package pooler

import (
	"regexp"
	"sync"
)

// lazyRegexp compiles an expression on first use. Most invocations drain nodes without a pooler, and every cold start would pay for it.
func lazyRegexp(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
