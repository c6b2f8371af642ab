package awstest

import (
	"net/http"
	"strings"
)

// maxSubscriptions is how many subscriptions one answer has (ListSubscriptionsByTopic, Amazon SNS API reference).
const maxSubscriptions = 100

// Pending is the ARN of a subscription that its owner has not confirmed yet (Subscribe, Amazon SNS API reference).
const Pending = "PendingConfirmation"

// Subscription is one subscription of a topic.
type Subscription struct {
	SubscriptionArn string // Pending: not confirmed
	Owner           string
	Protocol        string
	Endpoint        string
	TopicArn        string
}

// AddTopic makes an SNS topic, and returns its ARN. Its subscriptions get its ARN and, unless they are pending, one of their own.
func (s *Server) AddTopic(name string, subscriptions ...Subscription) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	arn = "arn:aws:sns:" + Region + ":" + Account + ":" + name
	for n := range subscriptions {
		added := &subscriptions[n]
		if added.TopicArn, added.Owner = arn, Account; added.SubscriptionArn == "" {
			added.SubscriptionArn = arn + ":" + newUUID()
		}
	}
	s.account.topics[arn] = subscriptions
	return arn
}

var topicActions = map[string]action{"ListSubscriptionsByTopic": listSubscriptions}

// listSubscriptions lists a topic's subscriptions, those that are not confirmed included
// (https://docs.aws.amazon.com/sns/latest/api/API_ListSubscriptionsByTopic.html).
func listSubscriptions(a *account, r request) (any, *apiError) {
	arn := r.params.Get("TopicArn")
	switch {
	case !strings.HasPrefix(arn, "arn:aws:sns:"+Region+":"):
		return nil, refused(http.StatusBadRequest, "InvalidParameter", "Invalid parameter: TopicArn")
	case !strings.HasPrefix(arn, "arn:aws:sns:"+Region+":"+Account+":"):
		return nil, refused(http.StatusForbidden, "AuthorizationError", "User: "+r.sess.assumedRoleARN()+" is not authorized to perform: SNS:"+
			"ListSubscriptionsByTopic on resource: "+arn)
	}
	all, known := a.topics[arn]
	if !known {
		return nil, refused(http.StatusNotFound, "NotFound", "Topic does not exist")
	}
	page, next, failure := pagedBy(all, r, maxSubscriptions, maxSubscriptions)
	return struct {
		Subscriptions []Subscription `xml:"Subscriptions>member"`
		NextToken     string         `xml:",omitempty"`
	}{page, next}, failure
}
