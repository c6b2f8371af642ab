// Package picture draws, as an SVG, what workers did while a node was terminated: per panel the commits per second and one lane
// per worker, red while the worker hangs.
package picture

import (
	"errors"
	"fmt"
	"io"
	"time"

	"quiesce/internal/svg"
)

// style is what this picture adds.
const style = `.area{fill:#d6e4f5}.curve{fill:none;stroke:#2f6db5;stroke-width:1.6;stroke-linejoin:round}.works{fill:#9fd4b0}.hangs{fill:#c4222b}
`

// Sample is one observation. It stands for the time since the previous sample.
type Sample struct {
	At      time.Duration
	Commits int   // by all workers since the previous sample
	Hanging []int // worker numbers, from 1
}

// Mark is an event.
type Mark struct {
	At    time.Duration
	What  string
	Fatal bool // the node dies: drawn red and thick
}

// Panel is one run.
type Panel struct {
	Title, Subtitle string
	Workers         int
	Samples         []Sample
	Marks           []Mark
}

// Words are what a picture says beside its panels.
type Words struct {
	Title string
	Hangs string // what it means that a worker hangs
}

// Draw writes the panels as one SVG, two in a row, all in the same scales. The same input gives the same bytes.
func Draw(w io.Writer, words Words, panels ...Panel) error {
	if err := check(panels); err != nil {
		return fmt.Errorf("draw %q: %w", words.Title, err)
	}
	f := frameFor(panels)
	var c svg.Canvas
	c.Open(width, f.height(len(panels)), words.Title, style)
	c.Text(margin, 38, "head", words.Title)
	c.Legend(margin, 62, [2]string{"area", "commits per second, all workers together"}, [2]string{"works", "a worker that works"},
		[2]string{"hangs", words.Hangs})
	for i, h := range panels {
		plot{Canvas: &c, frame: f, Panel: h, left: f.left(i), top: f.top(i)}.draw()
	}
	c.Close()
	if _, err := w.Write(c.Bytes()); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

func check(panels []Panel) error {
	if len(panels) == 0 {
		return errors.New("nothing to draw")
	}
	for _, h := range panels {
		if h.Workers < 1 || h.end() <= 0 {
			return fmt.Errorf("%q has no workers or no samples", h.Title)
		}
		for _, s := range h.Samples {
			for _, worker := range s.Hanging {
				if worker < 1 || worker > h.Workers {
					return fmt.Errorf("%q has no worker %d: they are numbered from 1 to %d", h.Title, worker, h.Workers)
				}
			}
		}
	}
	return nil
}

func (h Panel) end() time.Duration {
	if len(h.Samples) == 0 {
		return 0
	}
	return h.Samples[len(h.Samples)-1].At
}
