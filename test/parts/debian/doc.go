// Package debian runs programs of the lab's Debian images (quiesce/test/parts/images) on this host, through the images' own
// dynamic loader: without Kubernetes and without containers. The kernel ends every process when the test binary dies.
package debian
