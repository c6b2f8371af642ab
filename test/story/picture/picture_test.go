package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDraw_SpecialCharacters_WellFormed(t *testing.T) {
	for _, panels := range [][]Panel{{killed()}, {killed(), drained()}, {killed(), drained(), drained(), killed()}} {
		svg := draw(t, `A node dies & "somebody" <sees>`, panels...)
		decoder := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
		require.Contains(t, svg, "A node dies &amp;")
		require.Contains(t, svg, ">it hangs &amp; waits</text>")
		require.Less(t, len(svg), 80_000)
	}
}

func TestDraw_HangingWorkers_RedLanes(t *testing.T) {
	lanes := func(svg string) (works, hangs int) {
		return strings.Count(svg, `class="works"`) - 1, strings.Count(svg, `class="hangs"`) - 1 // except those of the legend
	}
	works, hangs := lanes(draw(t, "killed", killed()))
	require.Equal(t, 20, works)
	require.Equal(t, 8, hangs, "a worker's samples are joined into one")
	works, hangs = lanes(draw(t, "drained", drained()))
	require.Equal(t, 20, works)
	require.Zero(t, hangs)
}

func TestDraw_SameInput_SameBytes(t *testing.T) {
	require.Equal(t, draw(t, "x", killed(), drained()), draw(t, "x", killed(), drained()))
}

func TestDraw_UnknownWorker_Error(t *testing.T) {
	h := Panel{Title: "x", Workers: 2, Samples: []Sample{{At: time.Second, Hanging: []int{0}}}}
	require.ErrorContains(t, Draw(io.Discard, Words{Title: "x"}, h), "no worker 0")
	require.Error(t, Draw(io.Discard, Words{Title: "x"}))
	require.Error(t, Draw(io.Discard, Words{Title: "x"}, Panel{Workers: 2}))
}

func TestHangs_Twice_TwoPeriods(t *testing.T) {
	h := Panel{Workers: 1, Samples: []Sample{
		{At: 1 * time.Second}, {At: 2 * time.Second, Hanging: []int{1}}, {At: 3 * time.Second, Hanging: []int{1}},
		{At: 4 * time.Second}, {At: 5 * time.Second, Hanging: []int{1}},
	}}
	require.Equal(t, []period{{time.Second, 3 * time.Second}, {4 * time.Second, 5 * time.Second}}, h.hangs(1))
}

func TestRates_UnequalIntervals_CommitsPerSecond(t *testing.T) {
	h := Panel{Samples: []Sample{{At: 500 * time.Millisecond, Commits: 10}, {At: 2 * time.Second, Commits: 30}, {At: 2500 * time.Millisecond, Commits: 5}}}
	require.Equal(t, []rate{
		{500 * time.Millisecond, 20}, {1500 * time.Millisecond, 20}, {2250 * time.Millisecond, 10},
	}, h.rates(time.Second))
}

func TestLabels_Crowded_NoOverlap(t *testing.T) {
	f := frame{span: 60 * time.Second}
	marks := []Mark{}
	for i := range 12 {
		marks = append(marks, Mark{At: time.Duration(10+i*i/4) * time.Second, What: "something happens"})
	}
	placed := f.place(marks)
	for i, a := range placed {
		for _, b := range placed[:i] {
			require.False(t, a.collides(b), "%v and %v", a, b)
		}
	}
}

func TestLabels_AtEdge_NoOverlap(t *testing.T) {
	f := frame{span: 60 * time.Second}
	var marks []Mark
	for i := range 12 {
		marks = append(marks, Mark{At: time.Duration(49+i) * time.Second, What: "something happens"})
	}
	placed := f.place(marks)
	for i, a := range placed {
		for _, b := range placed[:i] {
			require.False(t, a.covers(b), "%v and %v", a, b)
		}
	}
}

func draw(t *testing.T, title string, panels ...Panel) string {
	var b bytes.Buffer
	require.NoError(t, Draw(&b, Words{Title: title, Hangs: "it hangs & waits"}, panels...))
	return b.String()
}

// killed returns a node that dies with 8 of 20 workers.
func killed() Panel {
	h := Panel{
		Title: "Without quiesce", Subtitle: "the instance is terminated: no cordon, no eviction, no SIGTERM", Workers: 20,
		Marks: []Mark{{At: 20 * time.Second, What: "the node dies", Fatal: true}, {At: 58 * time.Second, What: "node NotReady"}},
	}
	for i := 1; i <= 4*90; i++ {
		at := time.Duration(i) * 250 * time.Millisecond
		s := Sample{At: at, Commits: 110 + i*7919%17}
		if at > 20*time.Second {
			s.Commits = s.Commits * 12 / 20
		}
		if at > 22*time.Second {
			s.Hanging = []int{1, 3, 4, 8, 11, 12, 15, 19}
		}
		h.Samples = append(h.Samples, s)
	}
	return h
}

// drained returns the same node, drained before it dies.
func drained() Panel {
	h := Panel{
		Title: "With quiesce", Subtitle: "a lifecycle hook holds the instance until its poolers have finished", Workers: 20,
		Marks: []Mark{
			{At: 20 * time.Second, What: "Terminating:Wait"}, {At: 20800 * time.Millisecond, What: "cordoned"},
			{At: 21500 * time.Millisecond, What: "pgbouncer leaves"}, {At: 26 * time.Second, What: "the rest evicted"},
			{At: 33 * time.Second, What: "CONTINUE"}, {At: 36 * time.Second, What: "the node dies", Fatal: true},
		},
	}
	for i := 1; i <= 4*90; i++ {
		h.Samples = append(h.Samples, Sample{At: time.Duration(i) * 250 * time.Millisecond, Commits: 110 + i*7907%19})
	}
	return h
}
