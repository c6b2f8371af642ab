// Package pooler is the escort of pgbouncer pods. It recognizes them, chooses a strategy, and gets a pod off its node without
// aborting a transaction.
//
// Strategy evict stops pgbouncer around its eviction. Strategy surge replaces it first. SIGTERM changed its meaning in pgbouncer 1.23,
// so each generation has its own way to stop (https://www.pgbouncer.org/usage.html#signals): pause.go and shutdown.go. The escort
// records everything that outlives a crash before it does it. The next invocation finishes it or rolls it back.
package pooler
