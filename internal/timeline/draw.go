package timeline

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"quiesce/internal/drain"
	"quiesce/internal/svg"
)

// The layout, in pixels.
const (
	width       = 1200.0
	margin      = 28.0
	nameWidth   = 300.0
	plotLeft    = margin + nameWidth
	plotWidth   = width - margin - plotLeft
	headHeight  = 118.0 // title, two lines about the drain, legend
	markHeight  = 34.0  // the labels of marks, in two rows, above the bars
	pitch       = 17.0  // from pod to pod
	barHeight   = 11.0
	heldHeight  = 4.0
	phaseHeight = 26.0
	footHeight  = 62.0 // time axis, and the pods that were left alone
	maxName     = 44   // letters of a pod's name
	timeTicks   = 10
)

const style = `.waits{fill:#dfe3e8}.blocked{fill:#e8b93f}.stops{fill:#6aa2dc}.forced{fill:#c4222b}.held{fill:#3b1f6e}.gone{stroke:#24292f;stroke-width:1.5}
`

// Draw writes the drains as one SVG, one below the other. The same input gives the same bytes.
func Draw(w io.Writer, drains []Drain) error {
	if len(drains) == 0 {
		return errors.New("no report of a drain: a report has an instanceId, startedAt and pods")
	}
	var c svg.Canvas
	height := 0.0
	for _, d := range drains {
		height += newPlot(&c, d).height()
	}
	c.Open(width, height, title(drains[0]), style)
	top := 0.0
	for _, d := range drains {
		p := newPlot(&c, d)
		c.Group(0, top, p.draw)
		top += p.height()
	}
	c.Close()
	if _, err := w.Write(c.Bytes()); err != nil {
		return fmt.Errorf("write the picture: %w", err)
	}
	return nil
}

// plot draws one drain.
type plot struct {
	*svg.Canvas
	Drain
	phases     []phase
	skipped    int
	start, end time.Time
}

// phase is a phase with the pods that left in it.
type phase struct {
	drain.PhaseReport
	pods []drain.PodReport
}

func newPlot(c *svg.Canvas, d Drain) *plot {
	r := d.Report
	p := &plot{Canvas: c, Drain: d, start: r.StartedAt, end: r.FinishedAt}
	for _, reported := range r.Phases {
		p.phases = append(p.phases, phase{PhaseReport: reported})
	}
	for _, pod := range r.Pods {
		if pod.Outcome == drain.Skipped && pod.Escort == nil {
			p.skipped++
			continue
		}
		i := slices.IndexFunc(p.phases, func(f phase) bool { return f.Name == pod.Phase })
		if i < 0 {
			i, p.phases = len(p.phases), append(p.phases, phase{PhaseReport: drain.PhaseReport{Name: pod.Phase, StartedAt: r.StartedAt}})
		}
		p.phases[i].pods = append(p.phases[i].pods, pod)
		for _, at := range []time.Time{pod.BlockedAt, pod.EvictedAt, pod.ForcedAt, pod.GoneAt} {
			if at.After(p.end) {
				p.end = at
			}
		}
	}
	p.phases = slices.DeleteFunc(p.phases, func(f phase) bool { return len(f.pods) == 0 })
	const nearby = 4 // a deadline is shown if that costs less than a quarter of the width
	if late := r.Deadline.Sub(p.end); late > 0 && late < p.end.Sub(p.start)/nearby {
		p.end = r.Deadline
	}
	if p.end.Before(p.start.Add(time.Second)) {
		p.end = p.start.Add(time.Second)
	}
	return p
}

func (p *plot) height() float64 { return p.bottom() + footHeight }

func (p *plot) bottom() float64 {
	y := headHeight + markHeight
	for _, f := range p.phases {
		y += phaseHeight + float64(len(f.pods))*pitch
	}
	return y + pitch/2
}

func (p *plot) x(at time.Time) float64 {
	return plotLeft + plotWidth*min(1, max(0, at.Sub(p.start).Seconds()/p.end.Sub(p.start).Seconds()))
}

func (p *plot) draw() {
	p.head()
	p.axis()
	y := headHeight + markHeight
	for _, f := range p.phases {
		y += phaseHeight
		p.Text(margin, y-8, "title", f.Name)
		for _, pod := range f.pods {
			p.Explained(explanation(pod, p.start), func() { p.pod(pod, f.StartedAt, y) })
			y += pitch
		}
	}
	p.marks()
	if p.skipped > 0 {
		p.Text(margin, p.bottom()+46, "small soft", fmt.Sprintf("Left alone, such as pods of DaemonSets: %d.", p.skipped))
	}
}

func (p *plot) head() {
	r := p.Report
	p.Text(margin, 38, "head", title(p.Drain))
	words := []string{r.StartedAt.UTC().Format("2006-01-02 15:04:05 UTC"), "took " + short(r.FinishedAt.Sub(r.StartedAt))}
	if !r.Deadline.IsZero() {
		words = append(words, "deadline after "+short(r.Deadline.Sub(r.StartedAt)))
	}
	if n := len(p.Invocations); n > 1 {
		words = append(words, fmt.Sprintf("%d invocations", n))
	}
	p.Text(margin, 60, "soft", strings.Join(words, " · "))
	p.Text(margin, 78, "soft", drain.Cut(r.Reason, 2*maxNote))
	p.Legend(margin, 104, legend...)
}

// title says in one line what was drained with what result.
func title(d Drain) string {
	r := d.Report
	words := []string{r.InstanceID, string(r.Status)}
	if r.Node != "" {
		words[0] = r.Node + " (" + r.InstanceID + ")"
	}
	if r.LifecycleResult != "" {
		words = append(words, string(r.LifecycleResult))
	}
	return strings.Join(words, " · ")
}

func (p *plot) axis() {
	span := p.end.Sub(p.start)
	step := tick(span)
	for at := time.Duration(0); at <= span; at += step {
		x := p.x(p.start.Add(at))
		p.Line(x, headHeight+markHeight, x, p.bottom(), "grid")
		p.Line(x, p.bottom(), x, p.bottom()+4, "tick")
		p.Text(x, p.bottom()+18, "number middle", short(at))
	}
}

// tick returns the time between two ticks of an axis: round numbers of seconds or minutes.
func tick(span time.Duration) time.Duration {
	least := span / timeTicks
	for _, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		if least > unit/2 {
			return time.Duration(svg.Nice(float64(least)/float64(unit))*10) * (unit / 10)
		}
	}
	return time.Duration(svg.Nice(least.Seconds()) * float64(time.Second))
}

func (p *plot) pod(pod drain.PodReport, phaseStarted time.Time, y float64) {
	p.Text(plotLeft-10, y+barHeight-1, "small end", shortened(pod.Namespace+"/"+pod.Name, maxName))
	end, last := p.start, bars(pod, phaseStarted, p.Report.FinishedAt)
	for _, b := range last {
		p.Rect(p.x(b.from), y, max(1, p.x(b.to)-p.x(b.from)), barHeight, b.class)
		end = b.to
	}
	waited := time.Duration(0)
	for _, h := range p.held[pod.Ref()] {
		p.Rect(p.x(h.from), y+(barHeight-heldHeight)/2, max(1, p.x(h.to)-p.x(h.from)), heldHeight, held)
		waited += h.to.Sub(h.from)
	}
	if !pod.GoneAt.IsZero() {
		p.Line(p.x(pod.GoneAt), y-1, p.x(pod.GoneAt), y+barHeight+1, "gone")
	}
	class, words := "label", note(pod, waited)
	if pod.Outcome != drain.Evicted && pod.Outcome != drain.Skipped {
		class = "label fatal"
	}
	x := p.x(end) + 6
	if long := float64(utf8.RuneCountInString(words)) * svg.LetterWidth; x+long > width-margin {
		x, class = p.x(end)-6, class+" end"
	}
	if words != "" {
		p.Text(x, y+barHeight-1.5, class, words)
	}
}

// shortened cuts the middle out of a name: its beginning and its end distinguish it.
func shortened(name string, most int) string {
	letters := []rune(name)
	if len(letters) <= most {
		return name
	}
	half := (most - 1) / 2
	return string(letters[:half]) + "…" + string(letters[len(letters)-half:])
}

// marks draws the deadline and the invocations as lines through all bars.
func (p *plot) marks() {
	top := headHeight + markHeight
	for i, at := range p.Invocations {
		if i > 0 {
			p.Line(p.x(at), top-14, p.x(at), p.bottom(), "mark")
			p.Text(p.x(at)+4, top-6, "label", fmt.Sprintf("invocation %d", i+1))
		}
	}
	if deadline := p.Report.Deadline; !deadline.IsZero() && !deadline.After(p.end) {
		p.Line(p.x(deadline), top-28, p.x(deadline), p.bottom(), "mark fatal")
		p.Text(p.x(deadline)-4, top-20, "label fatal end", "deadline")
	}
}
