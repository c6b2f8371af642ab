// Package pooler tests the drain of nodes with pgbouncers: real ones of both generations on real nodes, in front of a real
// PostgreSQL, with workers that never pause. Each test has a fixture of its own.
package pooler
