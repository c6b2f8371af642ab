package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
	"quiesce/test/parts/ports"
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
	sdk, err := LoadSDK(t.Context())
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

// silentEndpoint sets the environment of a function whose AWS endpoint accepts connections and never answers.
func silentEndpoint(t *testing.T) {
	t.Helper()
	endpoint := "http://" + ports.Serve(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	for key, value := range map[string]string{
		"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
		"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_STS": endpoint,
	} {
		t.Setenv(key, value)
	}
}

// requests are one request to each service that the function uses.
func requests(sdk aws.Config) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"autoscaling": func(ctx context.Context) error {
			_, err := autoscaling.NewFromConfig(sdk).DescribeAutoScalingGroups(ctx, nil)
			return err
		},
		"ec2": func(ctx context.Context) error {
			_, err := ec2.NewFromConfig(sdk).DescribeInstances(ctx, nil)
			return err
		},
		"eks": func(ctx context.Context) error {
			_, err := eks.NewFromConfig(sdk).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String("prod")})
			return err
		},
		"s3": func(ctx context.Context) error {
			_, err := s3.NewFromConfig(sdk).PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("b"), Key: aws.String("k")})
			return err
		},
		"secretsmanager": func(ctx context.Context) error {
			_, err := secretsmanager.NewFromConfig(sdk).GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String("s")})
			return err
		},
		"sqs": func(ctx context.Context) error {
			_, err := sqs.NewFromConfig(sdk).SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: sdk.BaseEndpoint, MessageBody: aws.String("m")})
			return err
		},
		"sts": func(ctx context.Context) error {
			_, err := sts.NewFromConfig(sdk).GetCallerIdentity(ctx, nil)
			return err
		},
	}
}

// An endpoint of EC2 that accepted and never answered cost the whole invocation: no cordon, no eviction.
func TestLoadSDK_SilentEndpoint_AttemptEndsAndIsRetried(t *testing.T) {
	silentEndpoint(t)
	sdk, err := loadBoundedSDK(t.Context(), 20*time.Millisecond, time.Minute)
	require.NoError(t, err)
	sdk.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 2, time.Millisecond })
	}
	for service, request := range requests(sdk) {
		var all *retry.MaxAttemptsError
		require.ErrorAs(t, request(t.Context()), &all, service)
		require.Equal(t, 2, all.Attempt, service)
	}
}

func TestLoadSDK_SilentEndpoint_RequestEnds(t *testing.T) {
	silentEndpoint(t)
	sdk, err := loadBoundedSDK(t.Context(), time.Hour, 20*time.Millisecond)
	require.NoError(t, err)
	for service, request := range requests(sdk) {
		require.ErrorIs(t, request(t.Context()), context.DeadlineExceeded, service)
	}
}

// A role of a web identity is assumed with a request to STS.
func TestLoadSDK_SilentSTS_CredentialsEnd(t *testing.T) {
	silentEndpoint(t)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("token"), 0o600))
	for key, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "",
		"AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/quiesce", "AWS_WEB_IDENTITY_TOKEN_FILE": file,
	} {
		t.Setenv(key, value)
	}
	sdk, err := loadBoundedSDK(t.Context(), time.Hour, 20*time.Millisecond)
	require.NoError(t, err)
	_, err = sdk.Credentials.Retrieve(t.Context())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestLoadSDK_Timeouts_AreSeconds(t *testing.T) {
	awstest.Serve(t)
	sdk, err := LoadSDK(t.Context())
	require.NoError(t, err)
	client, is := sdk.HTTPClient.(*awshttp.BuildableClient)
	require.True(t, is)
	require.Equal(t, 5*time.Second, client.GetTimeout())
	require.Less(t, 2*attemptTimeout, requestTimeout, "a second attempt after one without an answer")
	require.Less(t, requestTimeout, 15*time.Second)
}
