// Command patronicallback pauses the poolers of a Patroni cluster before PostgreSQL stops, and resumes them when a primary accepts writes
// again: for switchovers and restarts that quiesce did not ask for. It is a pair of callbacks
// (https://patroni.readthedocs.io/en/latest/yaml_configuration.html). README.md says how to install it.
//
// Patroni runs before_stop on the member that stops, and waits for it. It runs on_role_change on the member that becomes the primary, and
// kills it when the next callback comes. So both only start a watcher, a process of its own that outlives them:
//
//	old leader's container                     pooler                        new leader's container
//	before_stop ─► watcher: mark ───────────► server_login_retry=1.01542
//	                        PAUSE ──────────► paused
//	◄─ transactions ended, or 5 s
//	PostgreSQL stops                                                         promoted
//	               watcher: looks                                            on_role_change ─► watcher: finds a mark
//	                                                                                          waits for a write
//	                                          resumed ◄────────────────────────────────────── RESUME
//	                                          1.01599 ◄────────────────────────────────────── mark: resumed
//	               watcher: another mark, ends                                                3 s later, if no write was seen: RECONNECT
//	                                          server_login_retry=15 ◄──────────────────────── as it was
//
// A pause that a callback made must be known to another pod, which has nothing but the console. pgbouncer has no comments. So the mark is a
// value of server_login_retry that no one would configure. It is short, which a move needs anyway, and its digits have the former value
// (mark.go). It is there before the first PAUSE, and goes after the RESUME. So:
//
//   - A pause without a mark is a person's, or one of quiesce, which pauses before it asks Patroni. No callback makes it,
//     changes it or ends it.
//   - Only a primary's stop pauses. Patroni says whether it is one. When Patroni itself is told to stop, its REST API is gone by then, and
//     PostgreSQL's control file says it (control.go).
//   - The first watcher ends the pause by itself: when its member is the primary again, as after a restart, or when its time is over
//     because no promotion came.
//   - If it dies with its container, the watcher of the new leader ends the pause. The old leader, if it starts again, is one too: Patroni
//     promotes it, and so calls on_role_change.
//   - Each mark has a number. A watcher whose mark was replaced is no longer in charge. It waits until the pause is over, and ends. If the
//     pause outlives every time that a callback may have, the watcher ends it after all.
//   - Two clusters may mark one pooler at the same moment. Each looks again when its PAUSE is in force. The last mark counts, and the
//     others end their own pauses at once. If another pause was complete before that mark, its cluster gives way instead (others.go).
//   - A pooler that does not answer is tried for an hour, by the first watcher and by that of the new leader. A watcher ends earlier when
//     pgbouncer has restarted, when no name leads to the pooler any more, or when a new leader's member has lost its lead (persist.go).
//   - Killed between PAUSE and RESUME, it leaves a marked pause, which any other watcher ends. Killed after RESUME, it leaves a mark without
//     a pause, which the next callback takes away. Until then that pooler has a short server_login_retry.
//
// Gaps are left, each of milliseconds or with a second failure. A person's PAUSE between a RESUME and the change of its mark looks like
// ours. So does one that a person makes while the first watcher cannot reach the pooler, if another watcher has ended our pause by then.
// A RELOAD of pgbouncer during the pause takes the mark away; then only the first watcher can end the pause. If the watcher of a cluster
// dies before it has given way, the other cluster's clients wait for up to 90 seconds more.
//
// The Lease with the mark of quiesce's own move is not read. Its poolers are paused when before_stop runs, which says the same, and needs
// no permission.
package main
