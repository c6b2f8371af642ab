// Package doctor finds what would go wrong when a node leaves: a person's look at a cluster and its Auto Scaling groups, before anything is
// deployed or at any time after.
//
// Its checks are pure functions from a [Snapshot] of what was read to findings. What could not be read is a finding too.
package doctor
