package pooler

import (
	"quiesce/internal/escort"
	"strconv"
	"strings"
	"time"
)

// hold is how long the pod's own hook is sure to hold back SIGTERM from the pooler.
func hold(p escort.Pod) time.Duration { return blocking(poolerOf(p).PreStop) }

// blocking is for how long a hook is sure to run: what its command begins by napping. Whatever comes after that may fail,
// or end the pooler itself. Better too short than too long: the time is counted on.
func blocking(preStop []string) time.Duration {
	switch {
	case len(preStop) >= 2 && program(preStop[0]) == "sleep":
		return napping(preStop[1:])
	case len(preStop) == 3 && shells[program(preStop[0])] && shellCommand().MatchString(preStop[1]):
		return script(preStop[2])
	}
	return 0
}

func program(path string) string { return path[strings.LastIndex(path, "/")+1:] }

var (
	shells       = map[string]bool{"sh": true, "bash": true, "ash": true, "dash": true}
	shellCommand = lazyRegexp(`^-[eux]*c$`)
	separator    = lazyRegexp(`\s*(&&|;|\n)\s*`)
)

// script adds up the sleeps that it begins with.
func script(text string) (total time.Duration) {
	for _, statement := range separator().Split(strings.TrimSpace(text), -1) {
		words := strings.Fields(statement)
		if len(words) < 2 || program(words[0]) != "sleep" {
			return total
		}
		slept := napping(words[1:])
		if slept == 0 {
			return total
		}
		total += slept
	}
	return total
}

// napping is what sleep makes of its arguments (https://www.gnu.org/software/coreutils/manual/html_node/sleep-invocation.html);
// zero, if it would refuse any of them.
func napping(arguments []string) (total time.Duration) {
	for _, argument := range arguments {
		found := sleepTime().FindStringSubmatch(argument)
		if found == nil {
			return 0
		}
		number, err := strconv.ParseFloat(found[1], 64)
		if err != nil || number > longestHook {
			return 0
		}
		total += time.Duration(number * float64(sleepUnits[found[2]]))
	}
	return total
}

// longestHook, in whatever unit, keeps what nobody means from overflowing.
const longestHook = 1e5

var (
	sleepTime  = lazyRegexp(`^(\d+(?:\.\d+)?)([smhd]?)$`)
	sleepUnits = map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
)
