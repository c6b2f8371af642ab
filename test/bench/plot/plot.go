// Package plot draws, as an SVG, how the time and the requests of something grow with one size.
package plot

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"quiesce/internal/svg"
)

// The layout, in pixels.
const (
	margin      = 28.0
	gutter      = 40.0
	headHeight  = 84.0  // title and legend
	titleHeight = 52.0  // a panel's title and subtitle
	axisWidth   = 40.0  // on both sides of a plot, for the numbers
	plotWidth   = 290.0 // without the numbers
	plotHeight  = 150.0
	footHeight  = 58.0 // the numbers of the size, and its name
	steps       = 4    // between the ticks of each vertical axis, so that both share one grid
	sizeTicks   = 5
	dot         = 3.0
)

const style = `.seconds{fill:none;stroke:#2f6db5;stroke-width:2;stroke-linejoin:round}.requests{fill:none;stroke:#b35900;stroke-width:2;stroke-dasharray:6 3;stroke-linejoin:round}
.secondsdot{fill:#2f6db5}.requestsdot{fill:#b35900}.number.left{fill:#2f6db5}.number.right{fill:#b35900}
`

// Panel is one curve of seconds and one of requests.
type Panel struct {
	Title, Subtitle string
	Size            string // what grows
	Points          []Point
}

// Point is one measurement.
type Point struct {
	Size              int
	Seconds, Requests float64
}

// Draw writes the panels as one SVG, beside each other, each in its own scales that begin at zero. The same input gives the same bytes.
func Draw(w io.Writer, title string, panels ...Panel) error {
	if err := check(panels); err != nil {
		return fmt.Errorf("draw %q: %w", title, err)
	}
	var c svg.Canvas
	pitch := plotWidth + 2*axisWidth + gutter
	width := max(2*margin+float64(len(panels))*pitch-gutter, 2*margin+float64(len(title))*11)
	c.Open(width, headHeight+titleHeight+plotHeight+footHeight, title, style)
	c.Text(margin, 38, "head", title)
	c.Legend(margin, 62, [2]string{"secondsdot", "seconds (left)"}, [2]string{"requestsdot", "requests (right, dashed)"})
	for i, p := range panels {
		c.Group(margin+float64(i)*pitch, headHeight, func() { newPlot(&c, p).draw() })
	}
	c.Close()
	if _, err := w.Write(c.Bytes()); err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}

func check(panels []Panel) error {
	if len(panels) == 0 {
		return errors.New("nothing to draw")
	}
	for _, p := range panels {
		if len(p.Points) < 2 || !slices.IsSortedFunc(p.Points, func(a, b Point) int { return a.Size - b.Size }) {
			return fmt.Errorf("%q needs two points or more, in the order of their sizes", p.Title)
		}
	}
	return nil
}

// plot draws one panel.
type plot struct {
	*svg.Canvas
	Panel
	seconds, requests, size scale
}

// scale is an axis that begins at zero.
type scale struct{ step, top float64 }

func newPlot(c *svg.Canvas, p Panel) plot {
	var peak Point
	for _, point := range p.Points {
		peak = Point{max(peak.Size, point.Size), max(peak.Seconds, point.Seconds), max(peak.Requests, point.Requests)}
	}
	of := func(peak float64) scale {
		step := svg.Nice(max(peak, math.SmallestNonzeroFloat32) / steps)
		return scale{step, steps * step}
	}
	return plot{Canvas: c, Panel: p, seconds: of(peak.Seconds), requests: of(peak.Requests),
		size: scale{svg.Nice(float64(peak.Size) / sizeTicks), float64(peak.Size)}}
}

func (p plot) draw() {
	p.Text(0, 18, "title", p.Title)
	p.Text(0, 38, "soft", p.Subtitle)
	p.Group(axisWidth, titleHeight, func() {
		p.grid()
		p.curve("seconds", p.seconds, func(at Point) float64 { return at.Seconds })
		p.curve("requests", p.requests, func(at Point) float64 { return at.Requests })
	})
}

// grid draws the three axes.
func (p plot) grid() {
	for n := range steps + 1 {
		y := plotHeight * (1 - float64(n)/steps)
		p.Line(0, y, plotWidth, y, "grid")
		p.Text(-6, y+4, "number left end", fmt.Sprintf("%.4g", float64(n)*p.seconds.step))
		p.Text(plotWidth+6, y+4, "number right", fmt.Sprintf("%.4g", float64(n)*p.requests.step))
	}
	for v := 0.0; v <= p.size.top; v += p.size.step {
		p.Line(p.x(v), plotHeight, p.x(v), plotHeight+4, "tick")
		p.Text(p.x(v), plotHeight+17, "number middle", fmt.Sprintf("%.0f", v))
	}
	p.Text(plotWidth/2, plotHeight+38, "soft middle", p.Size)
}

func (p plot) x(size float64) float64 { return plotWidth * size / p.size.top }

// curve draws one line with a dot per point.
func (p plot) curve(class string, s scale, value func(Point) float64) {
	var line, dots strings.Builder
	command := "M"
	for _, at := range p.Points {
		x, y := p.x(float64(at.Size)), plotHeight*(1-value(at)/s.top)
		line.WriteString(command + svg.Number(x) + " " + svg.Number(y))
		fmt.Fprintf(&dots, "M%s %sa%g %[3]g 0 1 0 %g 0a%[3]g %[3]g 0 1 0 -%[4]g 0", svg.Number(x-dot), svg.Number(y), dot, 2*dot)
		command = "L"
	}
	p.Path(line.String(), class)
	p.Path(dots.String(), class+"dot")
}
