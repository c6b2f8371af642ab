package main

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
)

// mark is what a callback writes into a pooler's server_login_retry: 1.FFFNN, where FFF is the former value in seconds and NN the number.
// pgbouncer keeps microseconds and shows six digits (lib/usual/cfparser.c, cf_get_time_usec), so the value survives.
type mark struct {
	former int // seconds
	number int
}

const (
	// resumed is the number of a mark whose pooler is resumed, and waits for its former setting.
	resumed = 99
	// yielded is the number of a mark whose cluster has given way to another: it has overwritten the mark of a pause that is in force.
	yielded = 98
	// maxNumber is the highest number of a pause.
	maxNumber = 89
	// maxFormer is the longest former value that fits, in seconds: a quarter of an hour.
	maxFormer = 999
)

// newNumber returns a number for a pause. None ends with 0, which pgbouncer would not show.
func newNumber() int {
	return 10*rand.IntN(maxNumber/10+1) + 1 + rand.IntN(9)
}

// value returns the mark as a value of the setting.
func (m mark) value() string { return fmt.Sprintf("1.%03d%02d", m.former, m.number) }

// isPause reports whether the pooler may be paused by a callback.
func (m mark) isPause() bool { return m.number != resumed }

// asResumed returns the mark of the same pooler after its RESUME.
func (m mark) asResumed() mark { return mark{m.former, resumed} }

// asYielded returns the mark for the pause of another cluster.
func (m mark) asYielded() mark { return mark{m.former, yielded} }

// formerValue returns the setting as it was.
func (m mark) formerValue() string { return strconv.Itoa(m.former) }

var markValue = regexp.MustCompile(`^1\.(\d{3})(\d[1-9])$`)

// readMark reads a value of the setting. It reports false if it is not a mark.
func readMark(value string) (mark, bool) {
	digits := markValue.FindStringSubmatch(value)
	if digits == nil {
		return mark{}, false
	}
	former, _ := strconv.Atoi(digits[1]) // only digits
	number, _ := strconv.Atoi(digits[2])
	return mark{former, number}, number <= maxNumber || number == resumed || number == yielded
}

// newMark returns the mark of a pause of a pooler whose setting has this value. A mark that is there already has the former value.
func newMark(value string, number int) (mark, error) {
	if m, is := readMark(value); is {
		return mark{m.former, number}, nil
	}
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 0 || seconds > maxFormer {
		return mark{}, fmt.Errorf("its server_login_retry, %.20q, is not a whole number of seconds up to %d", value, maxFormer)
	}
	return mark{seconds, number}, nil
}
