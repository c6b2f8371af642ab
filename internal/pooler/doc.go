// Package pooler is the escort of pgbouncer pods: it recognizes them, chooses a strategy, and gets one off its node so that no
// transaction is aborted.
//
// Strategy evict stops the pooler around its eviction. Strategy surge has it replaced first. What SIGTERM does changed in
// pgbouncer 1.23, and decides the order of both (https://www.pgbouncer.org/usage.html#signals). Everything that outlives a
// crash is recorded before it is done; the next invocation finishes it or undoes it.
package pooler
