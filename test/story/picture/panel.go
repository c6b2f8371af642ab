package picture

import (
	"fmt"
	"strings"
	"time"

	"quiesce/internal/svg"
)

// lanePart is the part of its pitch that a lane fills.
const lanePart = 0.8

// plot draws one panel.
type plot struct {
	*svg.Canvas
	frame
	Panel
	left, top float64
}

func (p plot) draw() {
	p.Group(p.left, p.top, func() {
		p.Text(0, 18, "title", p.Title)
		p.Text(0, 38, "soft", p.Subtitle)
	})
	p.Group(p.left+axisWidth, p.top, func() {
		p.times()
		p.commits()
		p.workers()
		p.marks()
	})
}

// times draws the axis that both plots share.
func (p plot) times() {
	step := time.Duration(svg.Nice(p.span.Seconds()/timeTicks) * float64(time.Second))
	for at := time.Duration(0); at <= p.span; at += step {
		p.Line(p.x(at), p.rateTop(), p.x(at), p.rateBottom(), "grid")
		p.Line(p.x(at), p.lanesBottom(), p.x(at), p.lanesBottom()+4, "tick")
		p.Text(p.x(at), p.lanesBottom()+17, "number middle", fmt.Sprintf("%g s", at.Seconds()))
	}
}

// commits draws the upper plot.
func (p plot) commits() {
	for v := 0.0; v <= p.rate; v += p.step {
		p.Line(0, p.y(v), p.plotWidth(), p.y(v), "grid")
		p.Text(-6, p.y(v)+4, "number end", fmt.Sprintf("%g", v))
	}
	curve := p.curve()
	p.Path(fmt.Sprintf("M0 %s%sV%sH0z", svg.Number(p.rateBottom()), strings.Replace(curve, "M", "L", 1), svg.Number(p.rateBottom())), "area")
	p.Path(curve, "curve")
}

// y returns the position of a rate in the upper plot.
func (p plot) y(perSecond float64) float64 {
	return p.rateBottom() - rateHeight*perSecond/p.rate
}

// curve returns a path through the middle of each bin, from the first moment to the last.
func (p plot) curve() string {
	rates := p.rates(binFor(p.span))
	first, last := rates[0], rates[len(rates)-1]
	first.at, last.at = 0, p.end()
	var d strings.Builder
	command := "M"
	for _, r := range append(append([]rate{first}, rates...), last) {
		d.WriteString(command + svg.Number(p.x(r.at)) + " " + svg.Number(p.y(r.perSecond)))
		command = "L"
	}
	return d.String()
}

// workers draws one lane per worker.
func (p plot) workers() {
	p.Text(0, p.lanesTop()-8, "small", fmt.Sprintf("%d workers", p.Workers))
	class, words := p.verdict()
	p.Text(p.plotWidth(), p.lanesTop()-8, "small end "+class, words)
	for worker := 1; worker <= p.Workers; worker++ {
		y := p.lanesTop() + float64(worker-1)*p.pitch
		p.Rect(0, y, p.x(p.end()), p.pitch*lanePart, "works")
		for _, hang := range p.hangs(worker) {
			p.Rect(p.x(hang.from), y, p.x(hang.to)-p.x(hang.from), p.pitch*lanePart, "hangs")
		}
	}
}

func (p plot) verdict() (class, words string) {
	switch atEnd, ever := p.outcome(); {
	case atEnd == 1:
		return "bad", "1 still hangs at the end"
	case atEnd > 1:
		return "bad", fmt.Sprintf("%d still hang at the end", atEnd)
	case ever > 0:
		return "soft", fmt.Sprintf("%d hung for a while", ever)
	}
	return "good", "none ever hung"
}

// marks draws lines through both plots, with labels above them.
func (p plot) marks() {
	for _, l := range p.place(p.Marks) {
		class, anchor, x := "", "", l.x+labelGap
		if l.Fatal {
			class = " fatal"
		}
		if l.flipped {
			anchor, x = " end", l.x-labelGap
		}
		bottom := p.rateTop() - 6 - float64(l.row)*labelHeight
		p.Line(l.x, bottom-labelHeight+3, l.x, p.lanesBottom(), "mark"+class)
		p.Text(x, bottom-3, "label"+class+anchor, l.What)
	}
}
