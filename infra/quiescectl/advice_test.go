package main

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestAdvised_Error_NamesTheNextStep(t *testing.T) {
	answered := func(code string) error {
		return fmt.Errorf("invoke: %w", &smithy.OperationError{ServiceID: "Lambda", OperationName: "Invoke", Err: fmt.Errorf(
			"https response error StatusCode: 403, RequestID: 1, %w", &smithy.GenericAPIError{Code: code, Message: "no"})})
	}
	silent := &smithy.OperationError{OperationName: "Invoke", Err: fmt.Errorf("request send failed, %w", &net.OpError{Op: "dial", Err: errors.New("refused")})}
	unknown := &smithy.OperationError{OperationName: "Invoke", Err: &net.DNSError{Err: "no such host", Name: "lambda.nowhere.amazonaws.com"}}
	terminating := apierrors.NewForbidden(schema.GroupResource{Resource: "roles"}, "quiesce", errors.New("no"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	o := &options{context: "prod"}
	for _, c := range []struct {
		err  error
		want string
	}{
		{answered("AccessDeniedException"), "invoke: Invoke: AccessDeniedException: no\nyour AWS identity needs lambda:InvokeFunction"},
		{answered("ExpiredToken"), "invoke: Invoke: ExpiredToken: no\n" + logIn},
		{answered("Throttling"), "invoke: Invoke: Throttling: no\nAWS limits requests: try again in a minute"},
		{silent, "Invoke: dial: refused\ncheck the region (--region) and the network"},
		{unknown, unknown.Error() + "\ncheck the region (--region) and the network: AWS has no such address"},
		{advisedError{errors.New("none"), "do that"}, "none\ndo that"},
		{apierrors.NewUnauthorized("no"), "no\nlog in again: the cluster does not accept your credentials. kubectl --context prod auth whoami says who you are"},
		{apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", nil), "pods is forbidden: <nil>\nyou need permission in the cluster to list pods"},
		{fmt.Errorf("apply Role quiesce/quiesce: %w", terminating), "apply Role quiesce/quiesce: roles \"quiesce\" is forbidden: no\nthe namespace is still being removed: run it again in a minute"},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, "dial: refused\ncheck that this works: kubectl --context prod version"},
		{errors.New("other"), "other"},
	} {
		require.EqualError(t, o.advised(c.err, "list pods", "lambda:InvokeFunction"), c.want)
	}
	require.NoError(t, o.advised(nil, "", ""))
}
