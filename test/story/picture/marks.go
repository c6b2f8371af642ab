package picture

import (
	"cmp"
	"slices"
	"time"
	"unicode/utf8"

	"quiesce/internal/svg"
)

const labelGap = 4.0 // between a mark's line and its label

// label is a mark and the place of its text. Rows count upwards from the plot.
type label struct {
	Mark
	x           float64
	left, right float64
	flipped     bool // the text is left of the line
	row         int
}

// place finds a row for each label, so that texts do not overlap and lines do not cross texts. Text is to the right of its line,
// so labels on the right are placed first, and lines of labels on the left rise behind them.
func (f frame) place(marks []Mark) []label {
	var placed []label
	for _, m := range byTime(marks) {
		placed = append(placed, f.label(m).clearOf(placed))
	}
	return placed
}

// clearOf gives a label the lowest free row. Near the right edge, where text is left of its line, there may be none; then at
// least the texts do not overlap.
func (l label) clearOf(placed []label) label {
	for _, clash := range []func(label, label) bool{label.collides, label.covers} {
		for l.row = 0; l.row <= len(placed); l.row++ {
			if !slices.ContainsFunc(placed, func(other label) bool { return clash(l, other) }) {
				return l
			}
		}
	}
	return l
}

// byTime sorts marks, the latest first.
func byTime(marks []Mark) []Mark {
	return slices.SortedStableFunc(slices.Values(marks), func(a, b Mark) int { return cmp.Compare(b.At, a.At) })
}

func (f frame) label(m Mark) label {
	x := f.x(min(max(m.At, 0), max(f.span, time.Nanosecond)))
	long := float64(utf8.RuneCountInString(m.What))*svg.LetterWidth + 2*labelGap
	l := label{Mark: m, x: x, left: x, right: x + long}
	if l.right > f.plotWidth() && x > long {
		l.left, l.right, l.flipped = x-long, x, true
	}
	return l
}

// covers reports whether the texts overlap.
func (l label) covers(other label) bool {
	return l.row == other.row && l.left < other.right && other.left < l.right
}

// collides reports whether the texts overlap, or the line of the upper label crosses the text of the lower.
func (l label) collides(other label) bool {
	upper, lower := l, other
	if upper.row < lower.row {
		upper, lower = lower, upper
	}
	return l.covers(other) || l.row != other.row && lower.left < upper.x && upper.x < lower.right
}
