// Command prestop is a preStop hook for pods of pgbouncer. It works however a pod leaves, also where quiesce sees nothing, such as
// `kubectl delete pod`, a rollout, or an eviction by the kubelet. README.md says how to install it.
//
// What a signal does depends on pgbouncer's version (https://www.pgbouncer.org/usage.html#signals):
//
//	              before 1.23                               1.23 and later
//	SIGINT        pauses, and exits without transactions    closes its ports, and exits without transactions
//	SIGTERM       exits at once                             waits for its clients to disconnect
//	the second    SIGTERM exits at once                     exits at once
//
// The kubelet sends SIGTERM as soon as the hook returns. So the hook sends SIGINT, once, and does not return before pgbouncer is gone. From
// 1.23 on, closed ports show that a shutdown has begun already, such as quiesce's over the console. Then the hook sends nothing and
// waits only: its signal would be the second one.
//
// Before that, it waits until no new clients come. A pod leaves its Services when its deletion begins, and the node proxies learn that
// later. A client that they still send would meet a closed port, or a paused pgbouncer.
//
// The hook asks neither a console nor the API server. It reads /proc, where the kernel lists processes and connections.
package main
