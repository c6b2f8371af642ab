// Package postgres is the escort of PostgreSQL primaries. It recognizes the members of a database cluster, learns who leads and how far
// replicas lag, and decides whether the primary can move before its node leaves.
//
// The facts come from what Patroni and CloudNativePG write in the Kubernetes API, and from each member's own HTTP interface. Assess is
// pure: it returns the candidate, or each reason to hold as a sentence. While anything is in doubt, nothing moves.
package postgres
