// Package runtimeapi runs a built bootstrap as AWS Lambda does: behind the runtime API, one invocation at a time, killed at its
// deadline, restarted after its death, and frozen between invocations.
//
// It follows the AWS Lambda developer guide, "Using the Lambda runtime API for custom runtimes" and "Understanding the Lambda
// execution environment lifecycle". It leaves out that Lambda removes idle environments.
package runtimeapi
