// Package bench measures drains side by side in one run on the same lab: by the built function, by kubectl drain, and by an ideal
// client that only evicts and watches. Compare ratios; seconds depend on the machine. `make bench` runs it.
package bench
