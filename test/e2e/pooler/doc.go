// Package pooler holds what must be true of pgbouncers on nodes that go: real ones of both generations, on real nodes, before a
// real PostgreSQL and under workers that never rest. Each test is a trial of its own.
package pooler
