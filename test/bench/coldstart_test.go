package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/test/env"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/runtimeapi"
)

// BenchmarkColdStart measures the time from exec to the first request for an invocation, beside a function that does nothing.
func BenchmarkColdStart(b *testing.B) {
	root, err := env.Root()
	require.NoError(b, err)
	folder := b.TempDir()
	quiesce, hello := filepath.Join(folder, "quiesce"), filepath.Join(folder, "hello")
	require.NoError(b, env.Build(b.Context(), root, quiesce))
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", hello, "./testdata/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(b, err, "%s", output)
	require.NoError(b, os.WriteFile(filepath.Join(folder, "quiesce.yaml"), []byte("cluster: lab\nautoScalingGroups: [workers-a]\nmode: drain\n"), 0o644))
	account, err := awstest.Start()
	require.NoError(b, err)
	b.Cleanup(account.Close)
	environment := account.Environment(account.Session("cold"))

	var ours, least []time.Duration
	var resident int64
	for b.Loop() {
		start, _ := cold(b, hello, folder, environment)
		least = append(least, start)
		start, rss := cold(b, quiesce, folder, environment)
		ours, resident = append(ours, start), max(resident, rss)
	}
	b.ReportMetric(median(ours).Seconds()*1000, "quiesce-ms")
	b.ReportMetric(median(least).Seconds()*1000, "hello-ms")
	b.ReportMetric(median(ours).Seconds()/median(least).Seconds(), "quiesce/hello")
	b.ReportMetric(float64(resident)/(1<<20), "resident-MiB")
	b.ReportMetric(megabytes(b, quiesce), "binary-MB")
	b.ReportMetric(0, "ns/op")
}

func cold(b *testing.B, program, root string, environment []string) (time.Duration, int64) {
	function, err := runtimeapi.Start(b.Context(), runtimeapi.Options{Bootstrap: program, TaskRoot: root, Env: environment})
	require.NoError(b, err)
	defer function.Close()
	return function.ColdStart(), function.MaxRSS()
}

func megabytes(b *testing.B, path string) float64 {
	info, err := os.Stat(path)
	require.NoError(b, err)
	return float64(info.Size()) / 1e6
}
