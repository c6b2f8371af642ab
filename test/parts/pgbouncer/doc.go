// Package pgbouncer runs real pgbouncers of both generations on the loopback interface, in front of a real PostgreSQL
// (quiesce/test/parts/postgres), for tests of the console and of the escort: without Kubernetes and without containers. Every
// pooler ends with its test.
package pgbouncer
