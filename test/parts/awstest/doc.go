// Package awstest simulates AWS on the loopback interface, so that tests can run the function against Auto Scaling,
// CloudWatch Logs, EC2, EKS, Lambda, S3, Secrets Manager, SQS and STS without an account.
//
// No emulator of lifecycle hooks exists, and the function depends on their clock. So the package models the clock: a token per
// hook, heartbeats, the global timeout, default results, and the errors with the texts of AWS. Requests must be signed (Signature
// Version 4) by a [Session] of the server, as in AWS. Tests can inject a fault into any action, and every call is recorded.
//
// The models follow the Amazon EC2 Auto Scaling user guide ("How lifecycle hooks work", "Complete a lifecycle action") and the
// API references of these services. What is not modeled is rejected rather than answered wrongly.
//
// Expiry is computed when a request comes; no goroutine waits for it. Only a [Mapping] polls.
package awstest
