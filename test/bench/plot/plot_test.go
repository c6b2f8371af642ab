package plot

import (
	"bytes"
	"encoding/xml"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDraw_TwoPanels_WellFormedAndSmall(t *testing.T) {
	picture := draw(t, "Pods & nodes", panel("a < b"), panel("c"))
	require.NoError(t, xml.Unmarshal([]byte(picture), new(struct{})), "it is read to its end")
	require.Contains(t, picture, "Pods &amp; nodes")
	require.Contains(t, picture, ">a &lt; b</text>")
	require.Less(t, len(picture), 10_000)
	require.Equal(t, picture, draw(t, "Pods & nodes", panel("a < b"), panel("c")))
}

func TestDraw_LinearCurve_StraightFromItsScales(t *testing.T) {
	picture := draw(t, "Growth", panel("pods"))
	require.Contains(t, picture, `class="seconds" d="M5.8 147L145 75L290 0"`, "0.16, 4 and 8 of 8 s; 10, 250 and 500 of 500 pods")
	require.Contains(t, picture, `class="requests" d="M5.8 148.1L145 103.1L290 56.3"`, "10, 250 and 500 of 800 requests")
}

func TestDraw_Nothing_ConstantAtZero(t *testing.T) {
	nothing := Panel{Title: "nothing", Points: []Point{{Size: 0}, {Size: 10}}}
	picture := draw(t, "Growth", nothing)
	require.Contains(t, picture, `class="requests" d="M0 150L290 150"`)
	require.NotContains(t, picture, "NaN")
}

func TestDraw_TooFewOrUnsortedPoints_Error(t *testing.T) {
	require.ErrorContains(t, Draw(io.Discard, "Growth"), "nothing to draw")
	require.ErrorContains(t, Draw(io.Discard, "Growth", Panel{Points: []Point{{Size: 1}}}), "two points")
	require.ErrorContains(t, Draw(io.Discard, "Growth", Panel{Points: []Point{{Size: 2}, {Size: 1}}}), "order")
}

func draw(t *testing.T, title string, panels ...Panel) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Draw(&b, title, panels...))
	return b.String()
}

func panel(title string) Panel {
	return Panel{Title: title, Subtitle: "to the API server", Size: "pods", Points: []Point{
		{Size: 10, Seconds: 0.16, Requests: 10}, {Size: 250, Seconds: 4, Requests: 250}, {Size: 500, Seconds: 8, Requests: 500},
	}}
}
