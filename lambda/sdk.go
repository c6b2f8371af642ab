package main

import (
	"context"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// loadSDK returns the AWS settings of the environment, with plainBody added to each client.
func loadSDK(ctx context.Context) (aws.Config, error) {
	sdk, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return aws.Config{}, fmt.Errorf("load the AWS settings: %w", err)
	}
	sdk.APIOptions = append(sdk.APIOptions, func(stack *middleware.Stack) error {
		return stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("PlainBody", plainBody), middleware.After)
	})
	return sdk, nil
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
