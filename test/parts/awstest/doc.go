// Package awstest answers for AWS on the loopback interface, so that tests can run the function against Auto Scaling, EC2,
// EKS, S3, Secrets Manager, SQS and STS without an account.
//
// No emulator of lifecycle hooks is to be had, and their clock is what the function lives by. So the clock is modelled
// here: a token for each hook, heartbeats, the global limit, default results, and the errors in the words of AWS. Requests
// must be signed (Signature Version 4) by a [Session] of the server's, as AWS would have it; a fault can be put in the way
// of any action, and every call is kept for the test to look at.
//
// What is modelled follows the Amazon EC2 Auto Scaling user guide ("How lifecycle hooks work", "Complete a lifecycle
// action") and the API references of these services. What is not modelled is refused, rather than answered wrongly.
//
// Time is read from the clock when somebody asks, never waited for by a goroutine, but for the pollers of a [Mapping], which ask.
package awstest
