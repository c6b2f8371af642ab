package config_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(least))
	f.Add([]byte("drain: &d {completionReserve: *d}\nphases: &p [*p, {match: *p}]"))
	f.Add([]byte("cluster: !!int x\n? [a]\n: b\n<<: *c\n---\n"))
	f.Add([]byte("phases: [{name: a, escort: {pgbouncer: {secretRef: {}, secretArn: a, port: 0x10}}}]"))

	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data, bare)
		if err == nil {
			requireSound(t, c)
			return
		}
		var errs config.Errors
		require.True(t, errors.As(err, &errs))
		for _, e := range errs {
			require.Positive(t, e.Line, e)
			require.NotEmpty(t, e.Reason)
		}
	})
}

// requireSound checks what the rest of the function relies on.
func requireSound(t *testing.T, c config.Config) {
	require.NotEmpty(t, c.Cluster)
	require.NotEmpty(t, c.Groups)
	require.Contains(t, []config.Mode{config.ModeShadow, config.ModeDrain}, c.Mode)
	require.Positive(t, c.Drain.MaxDuration)
	require.Positive(t, c.Drain.MaxConcurrentEvictions)
	require.Less(t, c.Drain.CompletionReserve, c.Drain.MaxDuration)
	unmatched := 0
	for _, phase := range c.Phases {
		require.NotEmpty(t, phase.Name)
		require.Positive(t, phase.Timeout)
		if phase.Name == config.Workloads {
			unmatched++
			require.True(t, phase.Match.Empty())
		}
	}
	require.Equal(t, 1, unmatched)
}
