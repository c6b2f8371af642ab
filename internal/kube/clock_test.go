package kube

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

func TestClockSkew_ServersDate_IsCompared(t *testing.T) {
	for name, c := range map[string]struct {
		skew time.Duration
		date string
		says string
	}{
		"same":    {},
		"behind":  {skew: 40 * time.Second},
		"ahead":   {skew: -time.Hour},
		"no time": {date: "tomorrow", says: "the API server does not say its time"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				date := c.date
				if date == "" {
					date = time.Now().Add(c.skew).UTC().Format(http.TimeFormat)
				}
				w.Header().Set("Date", date)
			}))
			t.Cleanup(server.Close)
			client, err := New(&rest.Config{Host: server.URL})
			require.NoError(t, err)
			skew, err := client.ClockSkew(t.Context())
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			require.InDelta(t, c.skew.Seconds(), skew.Seconds(), 3)
		})
	}
}
