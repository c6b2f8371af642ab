package postgres

import (
	"context"
	"fmt"

	"quiesce/internal/drain"
	"quiesce/internal/escort"
)

// passwordsTrap says, before a move, which poolers' clients may be refused after it; empty: none as far as is known. CloudNativePG hashes the
// passwords of its roles with a new salt when another instance becomes primary
// (https://github.com/cloudnative-pg/cloudnative-pg/blob/v1.30.0/pkg/management/postgres/utils/password.go). A pooler that asks
// the database for passwords logs in there with what a client proved, which was for the old salt. PostgreSQL then answers 28P01, and
// pgbouncer refuses clients for server_login_retry. Only the Secret shows whether this happens, and it is not read.
func (s *paths) passwordsTrap(f *Facts) string {
	if f.Operator.UsesPatroni() {
		return ""
	}
	var names []string
	for _, p := range s.fronts {
		if p.asksForPasswords {
			names = append(names, p.pod.Ref.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("clients of poolers that ask the database for passwords (auth_query) may get error 28P01 after the move: %s. "+
		"CloudNativePG hashes passwords anew at each switchover. Put the SCRAM verifier, not the password, into the Secret of each role", drain.Names(names, maxNames))
}

// cnpgPooler is the part of a Pooler that says where it leads.
type cnpgPooler struct{ Spec struct{ Type string } }

// isReadOnly reports whether the pooler is one of CloudNativePG's for replicas only. One whose Pooler cannot be read counts as in front of
// the primary.
func isReadOnly(ctx context.Context, cluster Cluster, p escort.Pod) bool {
	name := p.Labels[escort.CloudNativePGPooler]
	if !escort.IsName(name) {
		return false
	}
	var pooler cnpgPooler
	found, err := cluster.Custom(ctx, cnpgGroup, "poolers", p.Namespace, name, &pooler)
	return err == nil && found && pooler.Spec.Type == "ro"
}

// ownPooler is why CloudNativePG's own poolers are not held. Their manager waits for the answer to its PAUSE, which comes when the last open
// transaction ends, and only then reads the specification again
// (https://github.com/cloudnative-pg/cloudnative-pg/blob/v1.30.0/internal/pgbouncer/management/controller/instance.go). If somebody else
// resumes meanwhile, pgbouncer never answers, and the manager acts on nothing any more. All of this was seen with 1.30.0. A console can be
// reached otherwise, with a role pgbouncer that has a password, but not while all is paused, and it leaves out databases that clients use.
const ownPooler = "one of CloudNativePG's own cannot be paused safely"

// isCNPGPooler reports whether CloudNativePG runs the pooler: it always asks the database for passwords.
func isCNPGPooler(p escort.Pod) bool { return p.Labels[escort.CloudNativePGPooler] != "" }
