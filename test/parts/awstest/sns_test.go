package awstest_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

func TestListSubscriptions_PendingAndConfirmed_AllPages(t *testing.T) {
	s := start(t)
	var many []awstest.Subscription
	for range 120 {
		many = append(many, awstest.Subscription{Protocol: "email", Endpoint: "on-call@example.com"})
	}
	topic := s.AddTopic("alarms", append(many, awstest.Subscription{SubscriptionArn: awstest.Pending, Protocol: "email"})...)
	client := sns.NewFromConfig(config(s))
	pages, found := sns.NewListSubscriptionsByTopicPaginator(client, &sns.ListSubscriptionsByTopicInput{TopicArn: aws.String(topic)}), 0
	for n := 0; pages.HasMorePages(); n++ {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		found += len(page.Subscriptions)
		last := page.Subscriptions[len(page.Subscriptions)-1]
		require.Equal(t, n == 1, aws.ToString(last.SubscriptionArn) == awstest.Pending)
		require.Equal(t, topic, aws.ToString(last.TopicArn))
	}
	require.Equal(t, 121, found)
	attributes, err := client.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: aws.String(topic)})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"TopicArn": topic, "Owner": awstest.Account}, attributes.Attributes)
	s.EncryptTopic(topic, "alias/aws/sns")
	attributes, err = client.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: aws.String(topic)})
	require.NoError(t, err)
	require.Equal(t, "alias/aws/sns", attributes.Attributes["KmsMasterKeyId"])
	_, err = client.ListSubscriptionsByTopic(t.Context(), &sns.ListSubscriptionsByTopicInput{TopicArn: aws.String(topic + "x")})
	requireCode(t, err, "NotFound")
	_, err = client.ListSubscriptionsByTopic(t.Context(), &sns.ListSubscriptionsByTopicInput{TopicArn: aws.String("alarms")})
	requireCode(t, err, "InvalidParameter")
	other := strings.Replace(topic, awstest.Account, "444455556666", 1)
	_, err = client.ListSubscriptionsByTopic(t.Context(), &sns.ListSubscriptionsByTopicInput{TopicArn: &other})
	requireCode(t, err, "AuthorizationError")
}
