// Package bench measures drains side by side in one run on the same lab: the built function, kubectl drain, and an ideal
// client that does nothing but evict and watch. Figures are ratios; seconds are this machine's. `make bench` runs it.
package bench
