// Package svg writes pictures of a few simple shapes as SVG. Lengths are in pixels. The same calls give the same bytes.
package svg

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// Style is what all pictures share. It has a background of its own, so that a picture is readable on dark and light pages.
// Red and green also differ in lightness, for color-blind readers.
const Style = `
text{font:12px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","DejaVu Sans",Arial,sans-serif;fill:#24292f}
.head{font-size:21px;font-weight:600}.title{font-size:16px;font-weight:600}.soft{fill:#656d76}.small{font-size:11.5px}
.number{font-size:11px;fill:#656d76}.label{font-size:11px;paint-order:stroke;stroke:#fdfdfb;stroke-width:3px}
.middle{text-anchor:middle}.end{text-anchor:end}.bad,.label.fatal{fill:#b3161f;font-weight:600}.good{fill:#1a7f37;font-weight:600}
.background{fill:#fdfdfb;stroke:#dfddd5}.grid{stroke:#e9e7e0}.tick{stroke:#9a9a94}
.mark{stroke:#57606a;stroke-opacity:.75;stroke-dasharray:3 2.5}.mark.fatal{stroke:#b3161f;stroke-opacity:1;stroke-width:2.5;stroke-dasharray:none}
`

// LetterWidth is generous for small labels: viewers use different fonts, and a gap is better than an overlap.
const LetterWidth = 6.2

// Canvas is an SVG being written. Text in it is escaped; classes and paths are not.
type Canvas struct{ bytes.Buffer }

// Open begins the picture with its background. The title is what screen readers say. The style is added to Style.
func (c *Canvas) Open(width, height float64, title, style string) {
	c.raw(`<svg xmlns="http://www.w3.org/2000/svg" width="%s" height="%s" viewBox="0 0 %[1]s %[2]s" role="img">`, Number(width), Number(height))
	c.raw("\n<title>%s</title>\n<style>%s%s</style>\n", html.EscapeString(title), Style, style)
	c.raw(`<rect class="background" x=".5" y=".5" width="%s" height="%s" rx="10"/>`+"\n", Number(width-1), Number(height-1))
}

// Close ends the picture.
func (c *Canvas) Close() { c.raw("</svg>\n") }

func (c *Canvas) raw(format string, args ...any) {
	fmt.Fprintf(c, format, args...)
}

// Group draws with another origin.
func (c *Canvas) Group(x, y float64, draw func()) {
	c.raw(`<g transform="translate(%s %s)">`+"\n", Number(x), Number(y))
	draw()
	c.raw("</g>\n")
}

// Explained draws what viewers explain with these words while the pointer is on it.
func (c *Canvas) Explained(words string, draw func()) {
	c.raw("<g><title>%s</title>\n", html.EscapeString(words))
	draw()
	c.raw("</g>\n")
}

// Text writes words on a baseline.
func (c *Canvas) Text(x, y float64, class, words string) {
	c.raw(`<text class="%s" x="%s" y="%s">%s</text>`+"\n", class, Number(x), Number(y), html.EscapeString(words))
}

// Line draws a straight line.
func (c *Canvas) Line(x1, y1, x2, y2 float64, class string) {
	c.raw(`<path class="%s" d="M%s %sL%s %s"/>`+"\n", class, Number(x1), Number(y1), Number(x2), Number(y2))
}

// Path draws a path in SVG's own notation.
func (c *Canvas) Path(d, class string) {
	c.raw(`<path class="%s" d="%s"/>`+"\n", class, d)
}

// Rect draws a rectangle.
func (c *Canvas) Rect(x, y, w, h float64, class string) {
	c.raw(`<rect class="%s" x="%s" y="%s" width="%s" height="%s"/>`+"\n", class, Number(x), Number(y), Number(w), Number(h))
}

// Legend explains classes of shapes in one line: a box of the class, and its words.
func (c *Canvas) Legend(x, y float64, entries ...[2]string) {
	const box, key = 12.0, 18.0
	for _, entry := range entries {
		class, words := entry[0], entry[1]
		c.Rect(x, y-box+2, box, box, class)
		c.Text(x+key, y, "soft", words)
		x += key + float64(len(words))*LetterWidth + 2*key
	}
}

// Number formats a length to a tenth of a pixel, as short as possible.
func Number(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// Nice returns the smallest of 1, 2, 5, 10, 20, 50 and so on that is not less than step: the distance between two ticks of an axis.
func Nice(step float64) float64 {
	magnitude := math.Pow(10, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5} {
		if m*magnitude >= step {
			return m * magnitude
		}
	}
	return 10 * magnitude
}
