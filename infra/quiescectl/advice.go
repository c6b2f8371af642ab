package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"quiesce/internal/escort"
)

// logIn is the next step after credentials that AWS does not take.
const logIn = "log in (aws sso login), or name a profile with --profile"

// advised adds the next step to an error: needs says what the person must be allowed to do in the cluster, and permission what in AWS.
func (o *options) advised(err error, needs, permission string) error {
	if err == nil {
		return nil
	}
	if step := o.nextStep(err, needs, permission); step != "" {
		return advisedError{errors.New(plainText(err) + "\n" + step), step}
	}
	return err
}

// plainText is the text of an error without what the SDK says of its requests.
func plainText(err error) string {
	var operation *smithy.OperationError
	var api smithy.APIError
	var network *net.OpError
	text := err.Error()
	switch {
	case !errors.As(err, &operation):
	case errors.As(operation, &api):
		return strings.Replace(text, operation.Error(), fmt.Sprintf("%s: %s: %s", operation.OperationName, api.ErrorCode(), api.ErrorMessage()), 1)
	case errors.As(operation, &network):
		return strings.Replace(text, operation.Error(), fmt.Sprintf("%s: %s", operation.OperationName, network), 1)
	}
	return text
}

func (o *options) nextStep(err error, needs, permission string) string {
	var operation *smithy.OperationError
	var request *url.Error
	var network *net.OpError
	switch {
	case errors.As(err, new(advisedError)):
		advice, _ := errors.AsType[advisedError](err)
		return advice.fix
	case errors.As(err, &operation):
		return awsStep(operation, permission)
	case apierrors.IsUnauthorized(err):
		return "log in again: the cluster does not accept your credentials. " + o.aimed("kubectl auth whoami", "") + " says who you are"
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause): // it is forbidden to everybody
		return "the namespace is still being removed: run it again in a minute"
	case apierrors.IsForbidden(err), errors.Is(err, escort.ErrForbidden):
		return "you need permission in the cluster to " + needs
	case errors.As(err, &request), errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return "check that this works: " + o.aimed("kubectl version", "")
	}
	return ""
}

// awsStep returns what a person does about an error of AWS.
func awsStep(operation *smithy.OperationError, permission string) string {
	var api smithy.APIError
	var name *net.DNSError
	switch {
	case errors.As(operation, &api):
		switch code := api.ErrorCode(); {
		case strings.HasPrefix(code, "AccessDenied"), code == "UnauthorizedOperation":
			return "your AWS identity needs " + permission
		case strings.HasPrefix(code, "Throttling"), code == "RequestLimitExceeded", code == "TooManyRequestsException":
			return "AWS limits requests: try again in a minute"
		case strings.Contains(code, "Token"), code == "UnrecognizedClientException", code == "AuthFailure", code == "SignatureDoesNotMatch":
			return logIn
		case code == "NoSuchBucket", code == "PermanentRedirect":
			return "check the bucket's name, and the region (--region)"
		}
		return ""
	case errors.As(operation, &name):
		return "check the region (--region) and the network: AWS has no such address"
	}
	return "check the region (--region) and the network"
}
