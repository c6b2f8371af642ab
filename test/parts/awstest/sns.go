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

// EncryptTopic gives a topic a KMS key, in the form in which it was named.
func (s *Server) EncryptTopic(arn, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.topicKeys[arn] = key
}

var topicActions = map[string]action{"ListSubscriptionsByTopic": listSubscriptions, "GetTopicAttributes": topicAttributes}

// topic finds a topic. Those of other accounts allow nobody.
func (a *account) topic(r request, permission string) (arn string, subscriptions []Subscription, failure *apiError) {
	arn = r.params.Get("TopicArn")
	subscriptions, known := a.topics[arn]
	switch {
	case known:
		return arn, subscriptions, nil
	case !strings.HasPrefix(arn, "arn:aws:sns:"+Region+":"):
		return "", nil, refused(http.StatusBadRequest, "InvalidParameter", "Invalid parameter: TopicArn")
	case !strings.HasPrefix(arn, "arn:aws:sns:"+Region+":"+Account+":"):
		return "", nil, refused(http.StatusForbidden, "AuthorizationError",
			"User: "+r.sess.assumedRoleARN()+" is not authorized to perform: SNS:"+permission+" on resource: "+arn)
	}
	return "", nil, refused(http.StatusNotFound, "NotFound", "Topic does not exist")
}

// listSubscriptions lists a topic's subscriptions, those that are not confirmed included
// (https://docs.aws.amazon.com/sns/latest/api/API_ListSubscriptionsByTopic.html).
func listSubscriptions(a *account, r request) (any, *apiError) {
	_, all, failure := a.topic(r, "ListSubscriptionsByTopic")
	if failure != nil {
		return nil, failure
	}
	page, next, failure := pagedBy(all, r, maxSubscriptions, maxSubscriptions)
	return struct {
		Subscriptions []Subscription `xml:"Subscriptions>member"`
		NextToken     string         `xml:",omitempty"`
	}{page, next}, failure
}

// topicAttribute is an entry of a map in XML.
type topicAttribute struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

// topicAttributes describes a topic. One that is not encrypted has no KmsMasterKeyId
// (https://docs.aws.amazon.com/sns/latest/api/API_GetTopicAttributes.html).
func topicAttributes(a *account, r request) (any, *apiError) {
	arn, _, failure := a.topic(r, "GetTopicAttributes")
	if failure != nil {
		return nil, failure
	}
	all := []topicAttribute{{"TopicArn", arn}, {"Owner", Account}}
	if key := a.topicKeys[arn]; key != "" {
		all = append(all, topicAttribute{"KmsMasterKeyId", key})
	}
	return struct {
		Attributes []topicAttribute `xml:"Attributes>entry"`
	}{all}, nil
}
