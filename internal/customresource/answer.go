package customresource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"quiesce/internal/drain"
)

const (
	// answerTimeout bounds one attempt to answer. S3 answers within a second.
	answerTimeout = 5 * time.Second
	// answerPause lets S3 recover before the next attempt.
	answerPause = time.Second
	// answerAttempts is how often to try. Without an answer the stack waits, so one bad minute of S3 should not matter. If all fail,
	// Lambda invokes the function again.
	answerAttempts = 3
	// answerReserve is the part of the function's time that the answer may need.
	answerReserve = answerAttempts * (answerTimeout + answerPause)
	// maxAnswer is the most that CloudFormation reads, in bytes
	// (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-responses.html).
	maxAnswer = 4096
)

// bucketPrefix begins the name of the bucket for answers. The region follows, without hyphens
// (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/vpc-interface-endpoints.html).
const bucketPrefix = "cloudformation-custom-resource-response-"

// NewClient returns a client that follows no redirects: an answer goes to CloudFormation and nowhere else.
func NewClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// checkURL checks that an address is one of CloudFormation's bucket in the region. Its text is a secret: who has it can answer. No error
// repeats it.
func checkURL(text, region string) error {
	address, err := url.Parse(text)
	if err != nil {
		return errors.New("the response URL is not a URL")
	}
	hosts, err := answerHosts(region)
	if err != nil {
		return err
	}
	if address.Scheme != "https" || address.User != nil || !slices.Contains(hosts, address.Host) {
		return fmt.Errorf("the response URL is not one of CloudFormation's: %.100q", address.Scheme+"://"+address.Host)
	}
	return nil
}

// answerHosts returns the host names of the bucket for answers. CloudFormation uses all three forms, in different regions. The SDK knows
// the domain of each partition.
func answerHosts(region string) ([]string, error) {
	bucket := bucketPrefix + strings.ReplaceAll(region, "-", "")
	endpoint, err := s3.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), s3.EndpointParameters{
		Bucket: aws.String(bucket), Region: aws.String(region),
	})
	if err != nil {
		return nil, fmt.Errorf("find the bucket of CloudFormation in region %s: %w", region, err)
	}
	domain, found := strings.CutPrefix(endpoint.URI.Host, bucket+".s3."+region+".")
	if !found {
		return nil, fmt.Errorf("find the bucket of CloudFormation in region %s: unexpected host %s", region, endpoint.URI.Host)
	}
	return []string{bucket + ".s3." + region + "." + domain, bucket + ".s3-" + region + "." + domain, bucket + ".s3." + domain}, nil
}

// send sends the answer. The function's own time does not end it: do has left enough.
func (h *Handler) send(ctx context.Context, address string, response *cfn.Response) error {
	body, err := encode(response)
	if err != nil {
		return fmt.Errorf("answer CloudFormation: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerReserve)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := h.put(ctx, address, body)
		if err == nil {
			return nil
		}
		h.Log.Warn("failed to answer CloudFormation", "attempt", attempt, "error", err)
		if attempt == answerAttempts || drain.Sleep(ctx, answerPause) != nil {
			return fmt.Errorf("answer CloudFormation: %w", err)
		}
	}
}

// put sends the answer once. The address is signed for a request without a content type.
func (h *Handler) put(ctx context.Context, address string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, address, bytes.NewReader(body))
	if err != nil {
		return errors.New("the response URL is not a URL")
	}
	answer, err := h.Client.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("S3 says %s", answer.Status)
	}
	return nil
}

// withoutURL returns the error of a request without its address.
func withoutURL(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// encode returns the answer in JSON. It cuts the reason as much as it must: JSON may make it longer. The rest is short.
func encode(response *cfn.Response) ([]byte, error) {
	reason := response.Reason
	for most := maxAnswer; ; most /= 2 {
		response.Reason = drain.Cut(reason, most)
		body, err := json.Marshal(response)
		if err != nil || len(body) <= maxAnswer || most == 0 {
			return body, err
		}
	}
}
