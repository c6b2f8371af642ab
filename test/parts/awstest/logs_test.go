package awstest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/stretchr/testify/require"
)

func TestFilterLogEvents_ManyEvents_InPages(t *testing.T) {
	s := start(t)
	client := cloudwatchlogs.NewFromConfig(config(s))
	input := &cloudwatchlogs.FilterLogEventsInput{LogGroupName: aws.String("/aws/lambda/quiesce-lab")}
	_, err := client.FilterLogEvents(t.Context(), input)
	require.ErrorContains(t, err, "ResourceNotFoundException")

	out := s.LogGroup(*input.LogGroupName)
	for n := range 50 {
		_, _ = fmt.Fprintf(out, "line %d\n", n)
	}
	_, _ = fmt.Fprint(out, "incomplete")
	var lines []string
	for pages := cloudwatchlogs.NewFilterLogEventsPaginator(client, input); pages.HasMorePages(); {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		for _, e := range page.Events {
			lines = append(lines, *e.Message)
		}
	}
	require.Len(t, lines, 50)
	require.Equal(t, "line 49", lines[49])
	input.StartTime = aws.Int64(time.Now().Add(time.Hour).UnixMilli())
	page, err := client.FilterLogEvents(t.Context(), input)
	require.NoError(t, err)
	require.Empty(t, page.Events)
}
