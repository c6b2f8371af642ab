// Package termination is the use case: one termination of one instance, from the event to the completed lifecycle action.
//
// Its order of effects is a promise: verify, own, cordon, evict phase by phase, wait for volumes, complete. Each step is
// idempotent, and nothing is kept between invocations but what the cluster and the message themselves say, so that
// whatever ends an invocation early (a crash, Lambda's time limit, a duplicate) only means that a later one goes on.
//
// The package declares the ports it needs and knows no AWS or Kubernetes client.
package termination
