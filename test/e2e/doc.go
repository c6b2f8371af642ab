// Package e2e tests the built function, through the Lambda runtime API and with a real IAM token, against a real control plane
// and the AWS APIs. All tests share one stage; each has a group, nodes, a namespace and a function of its own.
package e2e
