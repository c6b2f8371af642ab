package asg

import (
	"errors"
	"net"
	"strings"

	"github.com/aws/smithy-go"
)

// NextStep returns what a person does about an error of a request to AWS, of any service; empty: unknown. The codes are those that
// services have in common (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/CommonErrors.html), with EC2's and EKS's own.
func NextStep(err error) string {
	var operation *smithy.OperationError
	if !errors.As(err, &operation) {
		return ""
	}
	var api smithy.APIError
	var name *net.DNSError
	switch {
	case errors.As(err, &api):
		return answerStep(api.ErrorCode(), operation)
	case errors.As(err, &name):
		return "let the function resolve names: look at the DNS servers of its VPC (DHCP options), and at the way to them on port 53"
	}
	return "let the function reach AWS: a NAT gateway, or the VPC endpoints of the output Endpoints"
}

// answerStep is NextStep for an error that a service answered.
func answerStep(code string, operation *smithy.OperationError) string {
	switch {
	case strings.HasPrefix(code, "AccessDenied"), code == "UnauthorizedOperation", code == "AccessDeniedException":
		return "make deploy again; if it stays, look for a service control policy or permissions boundary that denies " + operation.OperationName
	case strings.HasPrefix(code, "Throttling"), code == "RequestLimitExceeded":
		return "check again in a minute; if it stays, reduce other callers of " + operation.ServiceID
	case code == "ResourceNotFoundException":
		return "correct cluster in quiesce.yaml, then make deploy"
	}
	return ""
}
