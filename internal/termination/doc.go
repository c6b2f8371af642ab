// Package termination is the use case: one termination of one instance, from the event to the completed lifecycle action.
//
// The order of effects is a promise, and run in terminate.go shows it: verify, acquire the lease, learn the clock, cordon, evict phase
// by phase, wait for volumes, complete. Each step is idempotent. Between invocations only the cluster, AWS and the message keep
// state. A crash, Lambda's time limit or a duplicate therefore means no more than that a later invocation continues.
//
// The package declares the ports that it needs, and knows no client of AWS or Kubernetes.
package termination
