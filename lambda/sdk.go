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

// plainBody hides the WriteTo method of a request body, which makes the SDK repeat requests for nothing. The SDK closes the body
// as soon as the headers of the response are there. net/http may still look for the end of the body: the closed body's WriteTo
// returns io.EOF as an error, where Read ends the copy. net/http then closes the connection, and the rest of a response of
// more than 4 KB is lost (https://github.com/aws/aws-sdk-go-v2/issues/2737). A function with a part of a CPU meets that often.
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
