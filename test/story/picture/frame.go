package picture

import (
	"math"
	"time"

	"quiesce/internal/svg"
)

// The layout of all pictures, in pixels.
const (
	width        = 1200.0
	margin       = 28.0
	gutter       = 36.0 // between two panels
	headHeight   = 84.0 // the picture's title and legend
	titleHeight  = 52.0 // a panel's title and subtitle
	labelHeight  = 15.0 // of one row of labels
	axisWidth    = 38.0 // left of the plots, for the numbers
	rateHeight   = 130.0
	betweenPlots = 36.0 // with the text about the lanes
	footHeight   = 44.0 // below the lanes: the time axis
	lanesHeight  = 150.0
	maxPitch     = 13.0 // from lane to lane: few lanes need not fill the height
	minPitch     = 4.0  // many lanes must stay visible, and make the picture higher

	rateTicks = 4
	timeTicks = 8
)

// frame is what all panels of one picture share: their scales and the resulting heights.
type frame struct {
	span  time.Duration // of the time axis
	rate  float64       // top of the commits' axis
	step  float64       // between two of its ticks
	rows  int           // of labels
	lanes int
	pitch float64
}

func frameFor(panels []Panel) frame {
	var f frame
	peak := 1.0
	for _, h := range panels {
		f.span = max(f.span, h.end())
		f.lanes = max(f.lanes, h.Workers)
	}
	for _, h := range panels {
		for _, p := range h.rates(binFor(f.span)) {
			peak = max(peak, p.perSecond)
		}
		for _, l := range f.place(h.Marks) {
			f.rows = max(f.rows, l.row+1)
		}
	}
	f.step = svg.Nice(peak / rateTicks)
	f.rate = math.Ceil(peak/f.step) * f.step
	f.pitch = min(maxPitch, max(minPitch, lanesHeight/float64(f.lanes)))
	return f
}

func (f frame) panelWidth() float64 { return (width - 2*margin - gutter) / 2 }
func (f frame) plotWidth() float64  { return f.panelWidth() - axisWidth }
func (f frame) rateTop() float64    { return titleHeight + float64(f.rows)*labelHeight + 6 }
func (f frame) rateBottom() float64 { return f.rateTop() + rateHeight }
func (f frame) lanesTop() float64   { return f.rateBottom() + betweenPlots }
func (f frame) lanesBottom() float64 {
	return f.lanesTop() + float64(f.lanes)*f.pitch
}
func (f frame) panelHeight() float64 { return f.lanesBottom() + footHeight }

// left and top return the position of the i-th panel.
func (f frame) left(i int) float64 { return margin + float64(i%2)*(f.panelWidth()+gutter) }
func (f frame) top(i int) float64  { return headHeight + float64(i/2)*f.panelHeight() }

// height returns the picture's height with this many panels.
func (f frame) height(panels int) float64 { return f.top(panels-1) + f.panelHeight() }

// x returns the position of a time in a plot.
func (f frame) x(at time.Duration) float64 {
	return f.plotWidth() * at.Seconds() / f.span.Seconds()
}
