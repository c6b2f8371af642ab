package asg_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/events"
	"quiesce/internal/asg"
	"quiesce/internal/termination"
)

var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

func FuzzParse(f *testing.F) {
	for _, c := range events.Cases {
		payload, err := events.Read(c.Name)
		require.NoError(f, err)
		f.Add(payload)
	}
	f.Add([]byte(strings.Repeat("[", 100_000)))
	f.Add([]byte(strings.Repeat(`{"detail":`, 20_000)))
	f.Add([]byte(`{"Records":` + strings.Repeat("9", 10_000) + `}`))

	f.Fuzz(func(t *testing.T, payload []byte) {
		delivery := asg.Parse(payload)
		require.NotEmpty(t, delivery.Records)
		for _, record := range delivery.Records {
			requireOneMeaning(t, record)
			requireSafeNames(t, record)
			if record.Request != nil && delivery.Source != termination.Direct {
				require.Equal(t, termination.Request{Action: termination.ActionResume}, *record.Request, "all that others may ask for")
				require.Equal(t, termination.SQS, delivery.Source)
			}
		}
	})
}

func requireOneMeaning(t *testing.T, r termination.Record) {
	meanings := 0
	for _, set := range []bool{r.Termination != nil, r.Claim != nil, r.Request != nil, r.NotOurs != "", r.Malformed != nil} {
		if set {
			meanings++
		}
	}
	require.Equal(t, 1, meanings)
}

func requireSafeNames(t *testing.T, r termination.Record) {
	if r.Termination != nil {
		require.Regexp(t, instanceID, r.Termination.InstanceID)
		action := r.Termination.Trigger == "" // a trigger of EC2 names neither
		require.Equal(t, action, r.Termination.Group != "")
		require.Equal(t, action, r.Termination.Hook != "")
	}
	if r.Claim != nil {
		require.NotEmpty(t, r.Claim.InstanceIDs)
		for _, id := range r.Claim.InstanceIDs {
			require.Regexp(t, instanceID, id)
		}
	}
	if r.Request != nil && r.Request.InstanceID != "" {
		require.Regexp(t, instanceID, r.Request.InstanceID)
	}
	if r.Request != nil {
		require.NotContains(t, r.Request.Node, "/")
	}
	if r.Malformed != nil {
		require.NotContains(t, r.Malformed.Error(), "\n")
	}
	require.NotContains(t, r.NotOurs, "\n")
}
