package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
)

// subscribers says whether alarms reach anyone. Without a subscriber the stack works, so that is a warning.
func subscribers(ctx context.Context, sdk aws.Config, s stack) line {
	confirmed, pending, err := countSubscriptions(ctx, sns.NewFromConfig(sdk), s.Alarms)
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
