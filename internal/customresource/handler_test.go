package customresource_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/stretchr/testify/require"

	"quiesce/internal/customresource"
	"quiesce/test/parts/bubble"
)

const (
	region = "eu-west-1"
	host   = "cloudformation-custom-resource-response-euwest1.s3-eu-west-1.amazonaws.com"
	signed = "https://" + host + "/arn%3Aaws%3Acloudformation?X-Amz-Signature=secret"
	stack  = "arn:aws:cloudformation:eu-west-1:111122223333:stack/quiesce-prod/0b1c"
)

// cloudFormation takes answers, and is what the handler's functions do.
type cloudFormation struct {
	*customresource.Handler
	log      bytes.Buffer
	requests []*http.Request
	answers  []cfn.Response
	sizes    []int
	calls    []string
	s3       func(context.Context) (status int, err error)
	work     func(context.Context) error
}

func newCloudFormation() *cloudFormation {
	c := &cloudFormation{
		s3:   func(context.Context) (int, error) { return http.StatusOK, nil },
		work: func(context.Context) error { return nil },
	}
	client := customresource.NewClient()
	client.Transport = c
	c.Handler = &customresource.Handler{
		Put: func(ctx context.Context, former string) error {
			c.calls = append(c.calls, "put "+former)
			return c.work(ctx)
		},
		Remove: func(ctx context.Context) error {
			c.calls = append(c.calls, "remove")
			return c.work(ctx)
		},
		Region: region, Client: client, Log: slog.New(slog.NewTextHandler(&c.log, nil)),
	}
	return c
}

// RoundTrip implements http.RoundTripper.
func (c *cloudFormation) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var answer cfn.Response
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	c.requests, c.answers, c.sizes = append(c.requests, r), append(c.answers, answer), append(c.sizes, len(body))
	status, err := c.s3(r.Context())
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status), Body: http.NoBody, Request: r,
		Header: http.Header{"Location": {"https://elsewhere.example"}},
	}, nil
}

// event returns an event as CloudFormation sends it.
func event(request cfn.RequestType) cfn.Event {
	e := cfn.Event{
		RequestType: request, RequestID: "request-1", ResponseURL: signed, ResourceType: "Custom::LifecycleHooks",
		LogicalResourceID: "ManagedHooks", StackID: stack, ResourceProperties: map[string]any{"Hook": "quiesce"},
	}
	if request != cfn.RequestCreate {
		e.PhysicalResourceID = "ManagedHooks"
	}
	return e
}

func (c *cloudFormation) send(ctx context.Context, e cfn.Event) error {
	payload, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = c.Invoke(ctx, payload)
	return err
}

// A deployment does not fail because of a hook, and a deletion does.
func TestInvoke_EachRequest_IsAnswered(t *testing.T) {
	failure := errors.New("delete hook quiesce of workers-b: AccessDenied\ndelete hook quiesce of workers-c: AccessDenied")
	for _, c := range []struct {
		request cfn.RequestType
		err     error
		call    string
		status  cfn.StatusType
		logged  string
	}{
		{cfn.RequestCreate, nil, "put ", cfn.StatusSuccess, "hooks of the stack handled"},
		{cfn.RequestUpdate, nil, "put ", cfn.StatusSuccess, "hooks of the stack handled"},
		{cfn.RequestDelete, nil, "remove", cfn.StatusSuccess, "hooks of the stack handled"},
		{cfn.RequestCreate, failure, "put ", cfn.StatusSuccess, "failed to put or remove hooks, the sweep puts those that are missing"},
		{cfn.RequestUpdate, failure, "put ", cfn.StatusSuccess, "failed to put or remove hooks, the sweep puts those that are missing"},
		{cfn.RequestDelete, failure, "remove", cfn.StatusFailed, "failed to remove hooks, the deletion of the stack fails"},
	} {
		at := newCloudFormation()
		at.work = func(context.Context) error { return c.err }
		require.NoError(t, at.send(t.Context(), event(c.request)))
		require.Equal(t, []string{c.call}, at.calls)
		want := cfn.Response{
			Status: c.status, RequestID: "request-1", LogicalResourceID: "ManagedHooks", StackID: stack, PhysicalResourceID: "ManagedHooks",
		}
		if c.status == cfn.StatusFailed {
			want.Reason = "quiesce could not remove its lifecycle hooks: " + failure.Error()
		}
		require.Equal(t, []cfn.Response{want}, at.answers, c.request)
		require.Equal(t, http.MethodPut, at.requests[0].Method)
		require.Equal(t, signed, at.requests[0].URL.String())
		require.NotContains(t, at.requests[0].Header, "Content-Type", "the signature is for a request without one")
		require.Contains(t, at.log.String(), c.logged)
		require.NotContains(t, at.log.String(), "secret")
	}
}

// If the answer had another physical ID, CloudFormation would delete the former resource: all hooks.
func TestInvoke_Update_KeepsThePhysicalID(t *testing.T) {
	at := newCloudFormation()
	e := event(cfn.RequestUpdate)
	e.PhysicalResourceID = "earlier"
	e.OldResourceProperties = map[string]any{"Hook": "drain-me"}
	require.NoError(t, at.send(t.Context(), e))
	require.Equal(t, "earlier", at.answers[0].PhysicalResourceID)
	require.Equal(t, []string{"put drain-me"}, at.calls)
}

// Who may invoke the function could otherwise send requests in its name, and read its answers.
func TestInvoke_ForgedURL_NothingHappens(t *testing.T) {
	for _, address := range []string{
		"", "::", "http://" + host + "/a", "https://" + host + ".example/a", "https://" + host + ":8443/a", "https://user:secret@" + host + "/a",
		"https://example.com/" + host, "https://example.com/a#" + host, "https://169.254.169.254/latest/meta-data", "ftp://" + host + "/a",
		"https://mine.s3.eu-west-1.amazonaws.com/a", "https://s3.eu-west-1.amazonaws.com/cloudformation-custom-resource-response-euwest1/a",
		"https://cloudformation-custom-resource-response-euwest1-mine.s3.eu-west-1.amazonaws.com/a",
		"https://cloudformation-custom-resource-response-useast1.s3.us-east-1.amazonaws.com/a",
		"https://cloudformation-custom-resource-response-euwest1.s3.eu-west-1.amazonaws.com.cn/a",
		"https://cloudformation-custom-resource-response-euwest1.s3-website-eu-west-1.amazonaws.com/a",
	} {
		for _, request := range []cfn.RequestType{cfn.RequestCreate, cfn.RequestUpdate, cfn.RequestDelete} {
			at := newCloudFormation()
			e := event(request)
			e.ResponseURL = address
			require.ErrorContains(t, at.send(t.Context(), e), "the response URL is not", address)
			require.Empty(t, at.calls, address)
			require.Empty(t, at.requests, address)
			require.Contains(t, at.log.String(), "event refused, it is not CloudFormation's")
			require.NotContains(t, at.log.String(), "secret")
		}
	}
}

// The forms are those of recorded events.
func TestInvoke_URLOfAnyRegion_IsAnswered(t *testing.T) {
	for region, hosts := range map[string][]string{
		"us-east-1": {
			"cloudformation-custom-resource-response-useast1.s3.amazonaws.com",
			"cloudformation-custom-resource-response-useast1.s3.us-east-1.amazonaws.com",
		},
		"eu-west-1":      {host, "cloudformation-custom-resource-response-euwest1.s3.eu-west-1.amazonaws.com"},
		"ap-northeast-1": {"cloudformation-custom-resource-response-apnortheast1.s3-ap-northeast-1.amazonaws.com"},
		"us-gov-west-1":  {"cloudformation-custom-resource-response-usgovwest1.s3-us-gov-west-1.amazonaws.com"},
		"cn-north-1":     {"cloudformation-custom-resource-response-cnnorth1.s3.cn-north-1.amazonaws.com.cn"},
		"eusc-de-east-1": {"cloudformation-custom-resource-response-euscdeeast1.s3.eusc-de-east-1.amazonaws.eu"},
	} {
		for _, host := range hosts {
			at := newCloudFormation()
			at.Region = region
			e := event(cfn.RequestCreate)
			e.ResponseURL = "https://" + host + "/a?b"
			require.NoError(t, at.send(t.Context(), e), host)
			require.Len(t, at.answers, 1)
		}
	}
}

func TestInvoke_OtherEvents_NothingHappens(t *testing.T) {
	for _, payload := range []string{
		`{"action": "drain", "instanceId": "i-1"}`, `{"action": "sweep"}`, `{"Records": [{"body": "{}"}]}`, `[]`, `{`, `"Delete"`,
		`{"RequestType": "delete", "ResponseURL": "` + signed + `"}`, `{"ResponseURL": "` + signed + `"}`,
	} {
		at := newCloudFormation()
		_, err := at.Invoke(t.Context(), json.RawMessage(payload))
		require.ErrorContains(t, err, "not an event of a custom resource", payload)
		require.Empty(t, at.calls)
		require.Empty(t, at.requests)
	}
}

func TestInvoke_Panic_IsAnswered(t *testing.T) {
	for request, status := range map[cfn.RequestType]cfn.StatusType{
		cfn.RequestCreate: cfn.StatusSuccess, cfn.RequestDelete: cfn.StatusFailed,
	} {
		at := newCloudFormation()
		at.work = func(context.Context) error { panic("a nil map") }
		require.NoError(t, at.send(t.Context(), event(request)))
		require.Equal(t, status, at.answers[0].Status)
		require.Contains(t, at.log.String(), "panic recovered")
	}
}

// Without an answer, the stack waits for its timeout.
func TestInvoke_TimeNearlyOver_IsAnsweredInTime(t *testing.T) {
	for name, work := range map[string]func(ctx context.Context, end chan struct{}) error{
		"stops when told": func(ctx context.Context, _ chan struct{}) error {
			<-ctx.Done()
			return errors.New("3 of 5 groups not reached")
		},
		"never stops": func(_ context.Context, end chan struct{}) error {
			<-end
			return nil
		},
	} {
		for _, left := range []time.Duration{5 * time.Minute, 20 * time.Second, time.Second} {
			bubble.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				defer close(end)
				at := newCloudFormation()
				at.work = func(ctx context.Context) error { return work(ctx, end) }
				ctx, cancel := context.WithTimeout(t.Context(), left)
				defer cancel()
				require.NoError(t, at.send(ctx, event(cfn.RequestDelete)))
				require.Equal(t, cfn.StatusFailed, at.answers[0].Status, name)
				if left > 19*time.Second {
					require.NoError(t, ctx.Err(), "%s: in time, with %s", name, left)
				}
				if name == "stops when told" {
					require.Contains(t, at.answers[0].Reason, "3 of 5 groups not reached")
				}
			})
		}
	}
}

// The worst that S3 can do must end before the function does.
func TestInvoke_S3Fails_TriesThreeTimesInTime(t *testing.T) {
	for name, s3 := range map[string]func(context.Context) (int, error){
		"error":    func(context.Context) (int, error) { return http.StatusServiceUnavailable, nil },
		"redirect": func(context.Context) (int, error) { return http.StatusTemporaryRedirect, nil },
		"network":  func(context.Context) (int, error) { return 0, errors.New("connection refused") },
		"silent": func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		},
	} {
		bubble.Test(t, func(t *testing.T) {
			at := newCloudFormation()
			at.s3 = s3
			at.work = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := at.send(ctx, event(cfn.RequestDelete))
			require.ErrorContains(t, err, "answer CloudFormation", name)
			require.NoError(t, ctx.Err(), name)
			require.Len(t, at.requests, 3, name)
			for _, r := range at.requests {
				require.Equal(t, host, r.URL.Host, "no redirect is followed")
			}
			require.Equal(t, 3, strings.Count(at.log.String(), "failed to answer CloudFormation"))
			require.NotContains(t, at.log.String()+err.Error(), "secret")
		})
	}
}

func TestInvoke_S3FailsOnce_IsAnswered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		at := newCloudFormation()
		at.s3 = func(context.Context) (int, error) {
			if len(at.requests) == 1 {
				return http.StatusServiceUnavailable, nil
			}
			return http.StatusOK, nil
		}
		require.NoError(t, at.send(t.Context(), event(cfn.RequestDelete)))
		require.Len(t, at.requests, 2)
		require.Equal(t, []string{"remove"}, at.calls, "once")
	})
}

// CloudFormation reads 4,096 bytes. JSON makes a text longer.
func TestInvoke_LongReason_IsCut(t *testing.T) {
	at := newCloudFormation()
	at.work = func(context.Context) error {
		return errors.New("delete hook quiesce of workers-a: " + strings.Repeat("<\"é\n", 4000))
	}
	require.NoError(t, at.send(t.Context(), event(cfn.RequestDelete)))
	require.LessOrEqual(t, at.sizes[0], 4096)
	require.Contains(t, at.answers[0].Reason, "of workers-a")
}
