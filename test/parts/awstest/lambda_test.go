package awstest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func TestInvoke_Function_AnswersOrFails(t *testing.T) {
	s := start(t)
	s.AddFunction("quiesce-lab", func(_ context.Context, payload []byte) ([]byte, string, error) {
		s.State(id) // a function may call AWS
		if string(payload) == "{}" {
			return []byte(`{"errorType":"Broken"}`), "Unhandled", nil
		}
		return payload, "", nil
	})
	client := lambda.NewFromConfig(config(s))
	out, err := client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("quiesce-lab:live"), Payload: []byte(`{"action":"plan"}`)})
	require.NoError(t, err)
	require.Nil(t, out.FunctionError)
	require.JSONEq(t, `{"action":"plan"}`, string(out.Payload))
	out, err = client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("quiesce-lab"), Payload: []byte(`{}`)})
	require.NoError(t, err)
	require.Equal(t, "Unhandled", *out.FunctionError)

	arn := "arn:aws:lambda:" + awstest.Region + ":" + awstest.Account + ":function:quiesce-lab:live"
	_, err = client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &arn, Payload: []byte(`{"action":"plan"}`)})
	require.NoError(t, err)
	arn = strings.Replace(arn, awstest.Account, "444455556666", 1)
	_, err = client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &arn})
	requireCode(t, err, "AccessDeniedException")

	found, err := client.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: aws.String("quiesce-lab")})
	require.NoError(t, err)
	require.Equal(t, "quiesce-lab", *found.FunctionName)
	concurrency, err := client.GetFunctionConcurrency(t.Context(), &lambda.GetFunctionConcurrencyInput{FunctionName: aws.String("quiesce-lab")})
	require.NoError(t, err)
	require.Nil(t, concurrency.ReservedConcurrentExecutions)
	s.Reserve("quiesce-lab", 0)
	concurrency, err = client.GetFunctionConcurrency(t.Context(), &lambda.GetFunctionConcurrencyInput{FunctionName: aws.String("quiesce-lab")})
	require.NoError(t, err)
	require.Zero(t, *concurrency.ReservedConcurrentExecutions)
	mappings := func(function string) []lambdatypes.EventSourceMappingConfiguration {
		out, err := client.ListEventSourceMappings(t.Context(), &lambda.ListEventSourceMappingsInput{FunctionName: &function})
		require.NoError(t, err)
		return out.EventSourceMappings
	}
	s.SetMapping("quiesce-lab:live", "Disabled")
	require.Empty(t, mappings("quiesce-lab"), "it invokes the alias")
	require.Equal(t, "Disabled", *mappings("quiesce-lab:live")[0].State)
	s.AddFunction("quiesce-lab", nil)
	_, err = client.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: aws.String("quiesce-lab")})
	require.ErrorContains(t, err, "ResourceNotFoundException")
}
