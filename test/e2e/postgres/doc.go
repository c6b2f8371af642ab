// Package postgres tests what happens to a PostgreSQL primary whose node leaves: real clusters of Patroni and of CloudNativePG on real
// nodes, behind real pgbouncers, with pgbench and workers that never pause. Each test has a cluster of its own, and runs alone: it is
// about seconds.
package postgres
