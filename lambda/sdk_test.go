package main

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// bodies keeps the body of each request, and its text, and sends none.
type bodies struct {
	writers int
	texts   []string
}

func (b *bodies) Do(r *http.Request) (*http.Response, error) {
	if _, is := r.Body.(io.WriterTo); is {
		b.writers++
	}
	text, err := io.ReadAll(r.Body)
	b.texts = append(b.texts, string(text))
	return nil, errors.Join(err, io.ErrUnexpectedEOF) // retried
}

func TestLoadSDK_RequestBody_IsPlainInEachAttempt(t *testing.T) {
	awstest.Serve(t) // sets the environment
	sdk, err := loadSDK(t.Context())
	require.NoError(t, err)
	var sent bodies
	sdk.HTTPClient = &sent
	sdk.RetryMaxAttempts = 2
	_, err = autoscaling.NewFromConfig(sdk).DescribeLifecycleHooks(t.Context(), &autoscaling.DescribeLifecycleHooksInput{
		AutoScalingGroupName: aws.String("workers-a"),
	})
	require.Error(t, err)
	require.Len(t, sent.texts, 2)
	require.Contains(t, sent.texts[0], "AutoScalingGroupName=workers-a")
	require.Equal(t, sent.texts[0], sent.texts[1], "a retry sends the whole body again")
	require.Zero(t, sent.writers)
}
