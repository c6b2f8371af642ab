package pooler

import (
	"cmp"
	"strings"
	"time"
)

// hook is what a preStop hook does, as far as its words tell.
type hook struct {
	none   bool
	sleeps time.Duration // in all
	waits  bool          // in a loop, or for a process: until the pooler is gone, presumably
	pauses bool          // on the console
	stops  bool          // by a signal, or by a shutdown on the console
}

var (
	sleeping = lazyRegexp(`\bsleep\s+([\w.]+)`)
	waiting  = lazyRegexp(`\b(while|until|wait|pwait|pidwait)\b|\btail\s+--pid`)
	pausing  = lazyRegexp(`(?i)\bPAUSE\b`)
	shutting = lazyRegexp(`(?i)\bSHUTDOWN\b`)
	killing  = lazyRegexp(`\b(?:kill|killall|pkill)\s+(\S+)`)
	harmless = lazyRegexp(`^-(0|1|(SIG)?HUP)$`) // asks whether it is there, or has it read its file again
)

func readHook(preStop []string) hook {
	text := strings.Join(preStop, " ")
	h := hook{
		none:   len(preStop) == 0,
		waits:  waiting().MatchString(text),
		pauses: pausing().MatchString(text),
		stops:  shutting().MatchString(text),
	}
	for _, kill := range killing().FindAllStringSubmatch(text, -1) {
		h.stops = h.stops || !harmless().MatchString(kill[1])
	}
	if h.waits {
		return h // how long it sleeps depends
	}
	for _, sleep := range sleeping().FindAllStringSubmatch(text, -1) {
		h.sleeps += napping(sleep[1:])
	}
	return h
}

func (s sight) hook() hook { return readHook(poolerOf(s.pod).PreStop) }

// preStop: a hook runs before SIGTERM, and SIGTERM comes when it returns.
func (s sight) preStop() string {
	if preset := presetOf(s.pod.Labels); preset != nil && preset.onTERM != "" {
		return ""
	}
	hook := s.hook()
	return cmp.Or(s.whileNewer(hook), s.whileOlder(hook))
}

const (
	newerHook = "give it the hook sleep 5, and nothing else"
	olderHook = "give it a hook that sleeps 5 s, sends SIGINT, and waits until the pooler is gone"
)

func (s sight) whileNewer(h hook) string {
	switch {
	case !s.newer():
		return ""
	case h.stops && !h.waits:
		return "its preStop hook begins to stop it and returns, and since 1.23 the kubelet's SIGTERM, the second signal, then ends it at " +
			"once: " + newerHook
	case h.pauses:
		return "its preStop hook pauses it, and since 1.23 SIGTERM then waits for clients that hang until the grace period is over: " + newerHook
	case h.none && s.version != nil:
		return "it has no preStop hook, so that it refuses new connections before the node proxies have turned away from it: " + newerHook
	default:
		return ""
	}
}

func (s sight) whileOlder(h hook) string {
	switch {
	case !s.older():
		return ""
	case h.none, h.sleeps > 0 && !h.stops && !h.pauses:
		return "it has no preStop hook that stops it gracefully, and " + olderOnTERM + ": " + olderHook
	case h.stops && !h.waits && h.sleeps == 0:
		return "its preStop hook begins to stop it and does not wait for that, and " + olderOnTERM + ": " + olderHook
	default:
		return ""
	}
}
