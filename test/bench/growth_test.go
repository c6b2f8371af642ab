package bench

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/bench/plot"
	"quiesce/test/env"
	"quiesce/test/parts/lab"
)

// fewPods are on the node while something else grows.
const fewPods = 10

// growthAxis is a size that grows, and what is measured meanwhile. Every axis has a lab of its own.
type growthAxis struct {
	name, title string
	points      []int
	grow        func(g *growth, from, to int) // before each point
	curves      []growthCurve
}

// growthCurve is one measurement at each point of an axis.
type growthCurve struct {
	name     string
	panel    plot.Panel // without points
	measure  func(g *growth, b *testing.B, n int) cost
	requests func(cost) int // those that the plot shows
}

var growthAxes = []growthAxis{
	{
		name: "pods", title: "Pods on the node", points: []int{10, 50, 150, 300, 500},
		curves: []growthCurve{
			drainCurve("drain", "a drain", "pods that take 2 s to stop", "pods on the node", (*growth).drainPods),
			drainCurve("guarded", "a drain, each pod has a PDB, one blocks", "pods that take 2 s to stop", "pods, and PDBs", (*growth).drainGuarded),
		},
	},
	{
		name: "nodes", title: "Nodes of the cluster", points: []int{10, 100, 1000, 5000}, grow: (*growth).addNodes,
		curves: []growthCurve{
			drainCurve("named", "a drain, the node is named as in EC2", "10 pods that take 2 s to stop", "nodes", (*growth).drainFewPods),
			drainCurve("searched", "a drain, the node has another name", "10 pods that take 2 s to stop", "nodes", (*growth).drainRenamed),
		},
	},
	{
		name: "pdbs", title: "PDBs in the namespace of the pods", points: []int{0, 50, 250, 500},
		curves: []growthCurve{
			drainCurve("allow", "a drain, all PDBs allow it", "10 pods that take 2 s to stop", "PDBs", (*growth).drainAllowed),
			drainCurve("block", "a drain, one PDB lets pods go one by one", "10 pods that take 0.2 s to stop", "other PDBs", (*growth).drainOneByOne),
		},
	},
	{
		name: "groups", title: "Auto Scaling groups in the configuration", points: []int{1, 20, 100, 500}, grow: (*growth).addGroups,
		curves: []growthCurve{
			drainCurve("drain", "a drain", "10 pods that take 2 s to stop", "groups", (*growth).drainOfGroups),
			sweepCurve("sweep", "a sweep, no instance waits", (*growth).sweepQuiet),
			sweepCurve("waiting", "a sweep, an instance waits in each group", (*growth).sweepWaiting),
		},
	},
}

func drainCurve(name, title, pods, size string, measure func(g *growth, b *testing.B, n int) cost) growthCurve {
	return growthCurve{
		name: name, panel: plot.Panel{Title: title, Subtitle: pods + "; requests to the API server", Size: size},
		measure: measure, requests: func(c cost) int { return len(c.requests) },
	}
}

func sweepCurve(name, title string, measure func(g *growth, b *testing.B, n int) cost) growthCurve {
	return growthCurve{
		name: name, panel: plot.Panel{Title: title, Subtitle: "requests to AWS", Size: "groups"},
		measure: measure, requests: func(c cost) int { return len(c.calls) },
	}
}

// BenchmarkGrowth measures what a drain and a sweep cost while one size grows and all others stay small: seconds, and requests to the API
// server and to AWS. It draws one picture per axis into dist, and with UPDATE=1 the committed ones.
func BenchmarkGrowth(b *testing.B) {
	lab.Require(b)
	for _, axis := range growthAxes {
		b.Run(axis.name, axis.run)
	}
}

func (x growthAxis) run(b *testing.B) {
	g := &growth{Env: start(b)}
	g.drain(g.fixture(b), fewPods) // the first drain in a lab takes longer
	panels, from := make([]plot.Panel, len(x.curves)), 0
	for _, n := range x.points {
		if x.grow != nil {
			g.tb = b
			x.grow(g, from, n)
		}
		from = n
		for i, c := range x.curves {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				panels[i].Points = append(panels[i].Points, c.run(b, g, n, panels[i].Points))
			})
		}
	}
	for i, c := range x.curves {
		points := panels[i].Points
		if panels[i] = c.panel; len(points) < len(x.points) {
			return // not all of them were asked for
		}
		panels[i].Points = points
	}
	x.draw(b, panels)
}

// run measures one point, and compares it with the first.
func (c growthCurve) run(b *testing.B, g *growth, n int, before []plot.Point) plot.Point {
	g.tb = b
	var took []time.Duration
	var last cost
	for b.Loop() {
		last = c.measure(g, b, n)
		took = append(took, last.took)
	}
	point := plot.Point{Size: n, Seconds: median(took).Seconds(), Requests: float64(c.requests(last))}
	b.ReportMetric(point.Seconds, "s")
	b.ReportMetric(point.Seconds/append(before, point)[0].Seconds, "s/first")
	b.ReportMetric(last.cpu.Seconds(), "cpu-s")
	b.ReportMetric(float64(len(last.requests)), "requests")
	b.ReportMetric(float64(len(last.calls)), "aws-requests")
	b.ReportMetric(0, "ns/op")
	b.Logf("%s %d: %.2f s, %.2f s of CPU; %s; AWS: %s", c.panel.Title, n, point.Seconds, last.cpu.Seconds(), last.kindsOfRequests(), last.kindsOfCalls())
	return point
}

func (c cost) kindsOfRequests() string {
	kinds := map[string]int{}
	for _, r := range c.requests {
		kind := strings.TrimSuffix(r.Verb+" "+r.Resource+"/"+r.Subresource, "/")
		if r.Code >= 400 {
			kind += fmt.Sprint(" ", r.Code)
		}
		kinds[kind]++
	}
	return listKinds(kinds)
}

func (c cost) kindsOfCalls() string {
	kinds := map[string]int{}
	for _, call := range c.calls {
		kinds[call.Action]++
	}
	return listKinds(kinds)
}

func listKinds(kinds map[string]int) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, fmt.Sprint(kinds[kind], " ", kind))
	}
	return strings.Join(all, ", ")
}

func (x growthAxis) draw(b *testing.B, panels []plot.Panel) {
	var picture bytes.Buffer
	require.NoError(b, plot.Draw(&picture, x.title, panels...))
	root, err := env.Root()
	require.NoError(b, err)
	folders := []string{filepath.Join(root, "dist")}
	if os.Getenv("UPDATE") != "" {
		folders = append(folders, filepath.Join(root, "test", "bench", "growth"))
	}
	for _, folder := range folders {
		require.NoError(b, os.MkdirAll(folder, 0o755))
		path := filepath.Join(folder, "growth-"+x.name+".svg")
		require.NoError(b, os.WriteFile(path, picture.Bytes(), 0o644))
		b.Logf("the picture: %s", path)
	}
}
