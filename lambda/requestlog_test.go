package main

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/stretchr/testify/require"
)

// Lambda's own lines have the request ID. With it, the lines of one invocation can be found among all others.
func TestLog_DuringInvocation_LinesHaveRequestID(t *testing.T) {
	t.Cleanup(func() { requestID.Store(nil) })
	var out bytes.Buffer
	log := newLog(&out).With("instance", "i-1")
	log.Info("before")
	require.NotContains(t, out.String(), "requestId")
	for _, id := range []string{"id-1", "id-2"} {
		out.Reset()
		ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: id})
		_, err := withRequestID(func(context.Context, json.RawMessage) (any, error) {
			log.With("node", "node-1").Warn("during", "pod", "db/pooler-0")
			return nil, nil
		})(ctx, nil)
		require.NoError(t, err)
		var line map[string]string
		require.NoError(t, json.Unmarshal(out.Bytes(), &line))
		delete(line, "time")
		require.Equal(t, map[string]string{
			"level": "WARN", "msg": "during", "instance": "i-1", "node": "node-1", "pod": "db/pooler-0", "requestId": id,
		}, line)
	}
}
