// Command roles makes PostgreSQL's roles as a file declares them, and removes them again. It runs as a Kubernetes Job, and twice is as
// good as once. README.md has examples.
//
// It reads what the server has (observe.go), compares it with the declaration (plan.go, grants.go, drop.go: pure functions), and sends the
// statements that are missing in one transaction per database (apply.go). The file and its passwords are declaration.go's and scram.go's;
// the way to the primary is connect.go's; roles that belong to an operator are operators.go's.
package main
