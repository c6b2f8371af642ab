// Package pgbouncer runs a real PostgreSQL and real pgbouncers of both generations on the loopback interface, for tests of
// the console and of the escort: without Kubernetes and without containers.
//
// The programs are those of the images that the lab's nodes run (quiesce/test/parts/images), started on this host through their own
// dynamic loader. Every process is ended by its test, and by the kernel should the test binary die before.
package pgbouncer
