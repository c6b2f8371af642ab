// Package e2e tests the built function through the Lambda runtime API, with a real IAM token, against a real control plane and
// the AWS APIs. All tests share one environment; each has a group, nodes, a namespace and a function of its own.
package e2e
