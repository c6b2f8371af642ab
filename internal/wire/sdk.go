package wire

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const (
	// attemptTimeout bounds one attempt of an AWS request, from the connection to the end of the answer. AWS answers within a second,
	// a slow page of a large account within three. An endpoint that accepts and never answers would otherwise cost the whole invocation.
	attemptTimeout = 5 * time.Second
	// requestTimeout bounds a request with all its attempts. It leaves time for a second attempt after one that got no answer.
	requestTimeout = 12 * time.Second
)

// LoadSDK returns the AWS settings of the environment, with these options. Each client that is made from them, those for credentials
// included, has the timeouts and plainBody.
func LoadSDK(ctx context.Context, options ...func(*awsconfig.LoadOptions) error) (aws.Config, error) {
	return loadBoundedSDK(ctx, attemptTimeout, requestTimeout, options...)
}

func loadBoundedSDK(ctx context.Context, attempt, request time.Duration, options ...func(*awsconfig.LoadOptions) error) (aws.Config, error) {
	sdk, err := awsconfig.LoadDefaultConfig(ctx, append(options,
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(attempt)),
		awsconfig.WithAPIOptions([]func(*middleware.Stack) error{
			func(stack *middleware.Stack) error { return stack.Initialize.Add(bounded(request), middleware.Before) },
			func(stack *middleware.Stack) error {
				return stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("PlainBody", plainBody), middleware.After)
			},
		}))...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("load the AWS settings: %w", err)
	}
	return sdk, nil
}

// bounded ends a request with all its attempts after this time. No request of ours streams its answer, so the answer is read by then.
func bounded(timeout time.Duration) middleware.InitializeMiddleware {
	return middleware.InitializeMiddlewareFunc("Bounded", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return next.HandleInitialize(ctx, in)
	})
}

// plainBody hides the WriteTo method of a request body. Otherwise the SDK sends some requests twice: it closes the body as soon as
// the headers of the response are there, while net/http may still look for the end of the body. The Read of a closed body ends
// that, but its WriteTo returns io.EOF as an error. net/http then closes the connection. The rest of a response of more than 4 KB
// is lost, and the SDK retries (https://github.com/aws/aws-sdk-go-v2/issues/2737). It happens when the response is faster than
// the goroutine that writes the request.
func plainBody(
	ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
) (middleware.FinalizeOutput, middleware.Metadata, error) {
	if request, is := in.Request.(*smithyhttp.Request); is {
		if body, seekable := request.GetStream().(io.ReadSeeker); seekable {
			plain, err := request.SetStream(struct{ io.ReadSeeker }{body})
			if err != nil {
				return middleware.FinalizeOutput{}, middleware.Metadata{}, fmt.Errorf("replace the request body: %w", err)
			}
			in.Request = plain
		}
	}
	return next.HandleFinalize(ctx, in)
}
