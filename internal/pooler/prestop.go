package pooler

import (
	"strconv"
	"strings"
	"time"
)

// preStop is what a pod's preStop hook does, as far as its command shows.
type preStop struct {
	none   bool
	delay  time.Duration // for which it is certain to hold back SIGTERM: the sleeps with which it begins
	sleeps time.Duration // all its sleeps; zero if it waits
	open   bool          // it may take longer than delay: its command is not only sleeps
	waits  bool          // in a loop, or for a process: until pgbouncer is gone, presumably
	pauses bool          // on the console
	stops  bool          // by a signal, or by a shutdown on the console
}

var (
	shells       = map[string]bool{"sh": true, "bash": true, "ash": true, "dash": true}
	shellCommand = lazyRegexp(`^-[eux]*c$`)
	separator    = lazyRegexp(`\s*(&&|;|\n)\s*`)

	onlySleeps   = lazyRegexp(`^(\S*sh -[eux]*c )?\s*(\S*\bsleep [\w. ]+\s*(&&|;|\n|$)\s*)+$`)
	sleepCall    = lazyRegexp(`\bsleep\s+([\w.]+)`)
	waitCall     = lazyRegexp(`\b(while|until|wait|pwait|pidwait)\b|\btail\s+--pid`)
	pauseCall    = lazyRegexp(`(?i)\bPAUSE\b`)
	shutdownCall = lazyRegexp(`(?i)\bSHUTDOWN\b`)
	killCall     = lazyRegexp(`\b(?:kill|killall|pkill)\s+(\S+)`)
	harmlessKill = lazyRegexp(`^-(0|1|(SIG)?HUP)$`) // asks whether the process exists, or makes it read its file again

	sleepTime  = lazyRegexp(`^(\d+(?:\.\d+)?)([smhd]?)$`)
	sleepUnits = map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
)

// maxSleep is more than any drain has: Auto Scaling waits for 48 hours at most. A longer sleep is taken for an error of its author, and a
// sum is cut to it. Without a limit it would overflow.
const maxSleep = 48 * time.Hour

// readPreStop reads the command of a hook.
func readPreStop(command []string) preStop {
	text := strings.Join(command, " ")
	hook := preStop{
		none:   len(command) == 0,
		delay:  leadingSleep(command),
		open:   len(command) > 0 && !onlySleeps().MatchString(text),
		waits:  waitCall().MatchString(text),
		pauses: pauseCall().MatchString(text),
		stops:  shutdownCall().MatchString(text),
	}
	for _, kill := range killCall().FindAllStringSubmatch(text, -1) {
		hook.stops = hook.stops || !harmlessKill().MatchString(kill[1])
	}
	if delay, is := programDelay(command); is {
		return preStop{delay: delay, open: true, waits: true, stops: true}
	}
	if hook.waits {
		return hook // how long it sleeps is not certain
	}
	for _, sleep := range sleepCall().FindAllStringSubmatch(text, -1) {
		hook.sleeps = min(hook.sleeps+sleepDuration(sleep[1:]), maxSleep)
	}
	return hook
}

// How long the program of infra/prestop lets pgbouncer run, if its flags say nothing else: until no new client has come for programQuiet,
// and for programAccept or half of programGrace at the most. Its own constants are the same (TestProgramQuiet_ProgramsOwn_IsTheSame).
const (
	programQuiet  = 5 * time.Second
	programAccept = 15 * time.Second
	programGrace  = 30 * time.Second
)

// programDelay returns for how long the program of infra/prestop lets pgbouncer run at least, if this is its command.
func programDelay(command []string) (delay time.Duration, is bool) {
	if len(command) < 2 || program(command[0]) != "prestop" || command[1] != "pgbouncer" {
		return 0, false
	}
	or := func(name string, usual time.Duration) time.Duration {
		if value, given := flagTime(command, name); given {
			return value
		}
		return usual
	}
	return min(or("quiet-for", programQuiet), or("accept-for", programAccept), or("grace", programGrace)/2), true
}

// flagTime returns the value of a flag, as package flag reads it. It is zero if it is no time.
func flagTime(command []string, name string) (value time.Duration, given bool) {
	for i, argument := range command {
		text, is := strings.CutPrefix(argument, "-")
		if text = strings.TrimPrefix(text, "-"); !is {
			continue
		}
		if text == name && i+1 < len(command) {
			return sleepDuration(command[i+1 : i+2]), true
		}
		if after, is := strings.CutPrefix(text, name+"="); is {
			return sleepDuration([]string{after}), true
		}
	}
	return 0, false
}

// leadingSleep returns how long a command is certain to run: the sleeps with which it begins. What follows may fail, or stop pgbouncer.
// Too short is better than too long, because the escort relies on the time.
func leadingSleep(command []string) time.Duration {
	switch {
	case len(command) >= 2 && program(command[0]) == "sleep":
		return sleepDuration(command[1:])
	case len(command) == 3 && shells[program(command[0])] && shellCommand().MatchString(command[1]):
		return scriptSleep(command[2])
	}
	return 0
}

func program(path string) string { return path[strings.LastIndex(path, "/")+1:] }

// scriptSleep adds up the sleeps with which a shell script begins.
func scriptSleep(text string) (total time.Duration) {
	for _, statement := range separator().Split(strings.TrimSpace(text), -1) {
		words := strings.Fields(statement)
		if len(words) < 2 || program(words[0]) != "sleep" {
			return total
		}
		slept := sleepDuration(words[1:])
		if slept == 0 {
			return total
		}
		total = min(total+slept, maxSleep)
	}
	return total
}

// sleepDuration returns the time that sleep takes with these arguments
// (https://www.gnu.org/software/coreutils/manual/html_node/sleep-invocation.html). It returns zero if sleep would refuse any of them.
func sleepDuration(arguments []string) (total time.Duration) {
	for _, argument := range arguments {
		found := sleepTime().FindStringSubmatch(argument)
		if found == nil {
			return 0
		}
		number, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			return 0
		}
		slept := number * float64(sleepUnits[found[2]])
		if slept > float64(maxSleep) {
			return 0
		}
		total = min(total+time.Duration(slept), maxSleep)
	}
	return total
}
