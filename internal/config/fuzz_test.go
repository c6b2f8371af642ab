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
	f.Add([]byte("drain: &d {reserve: *d}\nphases: &p [*p, {match: *p}]"))
	f.Add([]byte("cluster: !!int x\n? [a]\n: b\n<<: *c\n---\n"))
	f.Add([]byte("phases: [{name: a, escort: {pgbouncer: {secretRef: {}, secretArn: a, port: 0x10}}}]"))

	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data, bare)
		if err == nil {
			requireSound(t, c)
			return
		}
		var faults config.Errors
		require.True(t, errors.As(err, &faults))
		for _, fault := range faults {
			require.Positive(t, fault.Line, fault)
			require.NotEmpty(t, fault.Reason)
		}
	})
}

// requireSound states what the rest of the function relies on.
func requireSound(t *testing.T, c config.Config) {
	require.NotEmpty(t, c.Cluster)
	require.NotEmpty(t, c.Groups)
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
