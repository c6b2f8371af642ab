// Package oneproc is imported by tests that use testing/synctest. With the race detector, such a test binary runs Go code on one thread at a
// time: the detector crashes if two goroutines of a bubble take expired timers at once (https://github.com/golang/go/issues/78156, open for
// Go 1.26). Races are found all the same: the detector compares what synchronizes, not what happens at the same moment.
package oneproc
