package pooler

import (
	"regexp"
	"sync"
)

// lazyRegexp compiles an expression when it is first needed: most starts of the function are for nodes without a pooler, and every
// one would pay for it.
func lazyRegexp(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
