package picture

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// style has a background of its own, so that the picture is readable on dark and light pages. Red and green also differ in
// lightness, for color-blind readers.
const style = `
text{font:12px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","DejaVu Sans",Arial,sans-serif;fill:#24292f}
.head{font-size:21px;font-weight:600}.title{font-size:16px;font-weight:600}.soft{fill:#656d76}.small{font-size:11.5px}
.number{font-size:11px;fill:#656d76}.label{font-size:11px;paint-order:stroke;stroke:#fdfdfb;stroke-width:3px}
.middle{text-anchor:middle}.end{text-anchor:end}.bad,.label.fatal{fill:#b3161f;font-weight:600}.good{fill:#1a7f37;font-weight:600}
.background{fill:#fdfdfb;stroke:#dfddd5}.grid{stroke:#e9e7e0}.tick{stroke:#9a9a94}.area{fill:#d6e4f5}.curve{fill:none;stroke:#2f6db5;stroke-width:1.6;stroke-linejoin:round}
.works{fill:#9fd4b0}.hangs{fill:#c4222b}.mark{stroke:#57606a;stroke-opacity:.75;stroke-dasharray:3 2.5}.mark.fatal{stroke:#b3161f;stroke-opacity:1;stroke-width:2.5;stroke-dasharray:none}
`

// canvas is an SVG being written.
type canvas struct{ bytes.Buffer }

// open writes the background, the title and the legend.
func (c *canvas) open(f frame, words Words, panels int) {
	height := f.height(panels)
	c.raw(`<svg xmlns="http://www.w3.org/2000/svg" width="%s" height="%s" viewBox="0 0 %[1]s %[2]s" role="img">`, num(width), num(height))
	c.raw("\n<title>%s</title>\n<style>%s</style>\n", html.EscapeString(words.Title), style)
	c.raw(`<rect class="background" x=".5" y=".5" width="%s" height="%s" rx="10"/>`+"\n", num(width-1), num(height-1))
	c.text(margin, 38, "head", words.Title)
	c.legend(margin, 62, words.Hangs)
}

// legend explains the colors, in one line.
func (c *canvas) legend(x, y float64, hangs string) {
	const box, key = 12.0, 18.0
	for _, entry := range []struct{ class, words string }{
		{"area", "commits per second, all workers together"},
		{"works", "a worker that works"},
		{"hangs", hangs},
	} {
		c.rect(x, y-box+2, box, box, entry.class)
		c.text(x+key, y, "soft", entry.words)
		x += key + float64(len(entry.words))*letterWidth + 2*key
	}
}

func (c *canvas) raw(format string, args ...any) {
	fmt.Fprintf(c, format, args...)
}

// group draws with another origin.
func (c *canvas) group(x, y float64, draw func()) {
	c.raw(`<g transform="translate(%s %s)">`+"\n", num(x), num(y))
	draw()
	c.raw("</g>\n")
}

func (c *canvas) text(x, y float64, class, words string) {
	c.raw(`<text class="%s" x="%s" y="%s">%s</text>`+"\n", class, num(x), num(y), html.EscapeString(words))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	c.raw(`<path class="%s" d="M%s %sL%s %s"/>`+"\n", class, num(x1), num(y1), num(x2), num(y2))
}

func (c *canvas) path(d, class string) {
	c.raw(`<path class="%s" d="%s"/>`+"\n", class, d)
}

func (c *canvas) rect(x, y, w, h float64, class string) {
	c.raw(`<rect class="%s" x="%s" y="%s" width="%s" height="%s"/>`+"\n", class, num(x), num(y), num(w), num(h))
}

// num formats a length to a tenth of a pixel, as short as possible.
func num(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}
