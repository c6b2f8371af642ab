// Package runtimeapi runs a built bootstrap as AWS Lambda does: behind the runtime API, one invocation at a time, killed
// when it outlives its deadline, started anew when it has died.
//
// It follows the AWS Lambda developer guide, "Using the Lambda runtime API for custom runtimes" and "Understanding the
// Lambda execution environment lifecycle". What Lambda does between invocations (freezing, spinning down) is left out.
package runtimeapi
