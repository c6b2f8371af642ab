package e2e

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/metrics/metricstest"
	"quiesce/internal/termination"
	"quiesce/test/env"
)

// nodeEvents returns the function's Kubernetes events of a node, in order, as lines of `kubectl describe node`.
func (s *fixture) nodeEvents(i env.Instance) (lines []string) {
	s.Helper()
	text, err := s.Lab.Kubectl(s.ctx, "describe", "node", i.Node)
	require.NoError(s, err)
	_, events, found := strings.Cut(text, "\nEvents:")
	require.True(s, found, text)
	for line := range strings.Lines(events) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[3] == "quiesce" { // Type Reason Age From Message
			lines = append(lines, strings.Join(slices.Delete(fields, 2, 4), " "))
		}
	}
	return lines
}

// metric returns the values of a metric that the fixture's function has written; with a dimension and its value, only those.
func (s *fixture) metric(metric string, dimension ...string) []float64 {
	s.Helper()
	return s.metricOf(s.function, metric, dimension...)
}

func (s *fixture) metricOf(f *env.Function, metric string, dimension ...string) (values []float64) {
	s.Helper()
	all, err := metricstest.Of(f.Output())
	require.NoError(s, err)
	for _, v := range all {
		if v.Name == metric && (len(dimension) == 0 || v.Dimensions[dimension[0]] == dimension[1]) {
			values = append(values, v.Value)
		}
	}
	return values
}

// metricSum returns the sum of a metric over all functions, as its graph shows it.
func (p *queueFixture) metricSum(metric string, dimension ...string) (sum float64) {
	p.Helper()
	for _, f := range p.functions {
		for _, value := range p.metricOf(f, metric, dimension...) {
			sum += value
		}
	}
	return sum
}

// archived returns the reports in a bucket, by key.
func (s *fixture) archived(bucket string) map[string]termination.Report {
	s.Helper()
	reports := map[string]termination.Report{}
	for key, body := range s.AWS.Objects(bucket) {
		var r termination.Report
		require.NoError(s, json.Unmarshal(body, &r))
		reports[key] = r
	}
	return reports
}

// relatedPods returns the pods that the Kubernetes events of a node name as related.
func (s *fixture) relatedPods(i env.Instance) (pods []string) {
	s.Helper()
	events, err := s.Lab.Client().CoreV1().Events(metav1.NamespaceDefault).List(s.ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + i.Node,
	})
	require.NoError(s, err)
	for _, e := range events.Items {
		if e.Related != nil {
			pods = append(pods, e.Related.Namespace+"/"+e.Related.Name)
		}
	}
	return pods
}
