package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
)

// awsKey is the key that AWS manages for SNS. Its policy does not admit CloudWatch, and it cannot be changed: alarms never reach a topic
// under it (https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html).
const awsKey = "alias/aws/sns"

// subscribers says whether alarms reach anyone. Without a subscriber the stack works, so that is a warning.
func subscribers(ctx context.Context, sdk aws.Config, s stack) line {
	client := sns.NewFromConfig(sdk)
	if key, err := encryptionKey(ctx, client, s.Alarms); err != nil {
		return line{warning, "alarms", "unknown whether alarms reach anyone: " + err.Error(), "allow sns:GetTopicAttributes, or look at the topic"}
	} else if strings.HasSuffix(key, awsKey) {
		return line{warning, "alarms", "alarms reach no one: the topic is encrypted with " + awsKey + ", which CloudWatch may not use",
			"encrypt the topic with a key of your own that cloudwatch.amazonaws.com may use, or with none"}
	}
	confirmed, pending, err := countSubscriptions(ctx, client, s.Alarms)
	subscribe := "aws sns subscribe --topic-arn " + s.Alarms + " --protocol email --notification-endpoint you@example.com"
	switch {
	case err != nil:
		return line{warning, "alarms", "unknown whether alarms reach anyone: " + err.Error(), "allow sns:ListSubscriptionsByTopic, or look at the topic"}
	case confirmed > 0:
		return line{good, "alarms", fmt.Sprintf("%d confirmed subscribers, %d pending", confirmed, pending), ""}
	case pending > 0:
		return line{warning, "alarms", fmt.Sprintf("alarms reach no one: %d subscribers, none confirmed", pending), "confirm the subscription: AWS has sent a message"}
	}
	return line{warning, "alarms", "alarms reach no one: the topic has no subscriber", subscribe}
}

// encryptionKey returns the key that encrypts a topic; empty: none.
func encryptionKey(ctx context.Context, client *sns.Client, topic string) (string, error) {
	found, err := client.GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &topic})
	if err != nil {
		return "", fmt.Errorf("describe %s: %w", topic, err)
	}
	return found.Attributes["KmsMasterKeyId"], nil
}

// countSubscriptions counts the subscriptions of a topic. One that is not confirmed has no ARN but this word, and one that was just deleted
// may have the other (https://docs.aws.amazon.com/sns/latest/api/API_ListSubscriptionsByTopic.html).
func countSubscriptions(ctx context.Context, client *sns.Client, topic string) (confirmed, pending int, err error) {
	pages := sns.NewListSubscriptionsByTopicPaginator(client, &sns.ListSubscriptionsByTopicInput{TopicArn: &topic})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return 0, 0, fmt.Errorf("list the subscribers of %s: %w", topic, err)
		}
		for _, s := range page.Subscriptions {
			switch aws.ToString(s.SubscriptionArn) {
			case "PendingConfirmation":
				pending++
			case "Deleted":
			default:
				confirmed++
			}
		}
	}
	return confirmed, pending, nil
}
