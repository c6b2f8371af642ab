package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// operatorRoles are the roles that an operator makes and keeps as it wants them, as its documents and sources say. Names that nobody else is
// known to use are refused everywhere.
var operatorRoles = map[string][]string{
	cloudNativePG: {"streaming_replica", "cnpg_pooler_pgbouncer", "cnpg_metrics_exporter"},
	zalando:       {"robot_zmon", "zalandos"},
	crunchy:       {"_crunchyrepl", "_crunchypgbouncer", "ccp_monitoring"},
}

// commonNames are roles of operators whose names others use too. They are refused on that operator's servers.
var commonNames = map[string][]string{
	zalando:   {"standby", "admin", "cron_admin", "pooler"},
	stackGres: {"replicator", "authenticator", "pgbouncer_admin", "pgbouncer_stats"},
}

// The operators.
const (
	cloudNativePG = "CloudNativePG"
	zalando       = "Zalando's operator"
	crunchy       = "Crunchy's operator"
	stackGres     = "StackGres"
)

// signs is what suggests whose server it is.
type signs struct {
	sockets   string   // unix_socket_directories
	libraries string   // shared_preload_libraries
	roles     []string // of those with the names below, which exist
	superuser []string // those of them that are superusers
}

// signRoles are the roles that are looked for.
var signRoles = []string{"streaming_replica", "robot_zmon", "zalandos", "_crunchyrepl", "authenticator"}

// operatorOf returns the operator of a server with these signs, or nothing. It sees a server only from inside, so a changed one may look
// like one without an operator.
func operatorOf(s signs) string {
	switch {
	case strings.Contains(s.sockets, "/controller/run") || slices.Contains(s.roles, "streaming_replica"):
		return cloudNativePG
	case slices.Contains(s.roles, "_crunchyrepl"):
		return crunchy
	case strings.Contains(s.libraries, "bg_mon") || slices.Contains(s.roles, "robot_zmon") || slices.Contains(s.roles, "zalandos"):
		return zalando
	case slices.Contains(s.superuser, "authenticator"):
		return stackGres
	}
	return ""
}

// refuse returns why roles of a declaration are not this program's to change.
func refuse(d declaration, s server) error {
	var errs []error
	for _, r := range d.Roles {
		if why := refusal(r.Name, s); why != "" {
			errs = append(errs, fmt.Errorf("role %s is refused: %s", r.Name, why))
		}
	}
	return errors.Join(errs...)
}

func refusal(name string, s server) string {
	have, exists := s.roles[name]
	switch owner := namedBy(name, s.operator); {
	case name == "postgres":
		return "it is the administrator's: this program changes it nowhere"
	case name == s.user:
		return "this program is logged in as it"
	case strings.HasPrefix(name, "pg_"):
		return "names that begin with pg_ are PostgreSQL's own"
	case owner != "":
		return fmt.Sprintf("its name is one that %s uses for its own: change it through the operator", owner)
	case have.superuser:
		return "it is a superuser: this program changes none. Choose another name"
	case exists && s.operator != "" && have.comment != mark:
		return fmt.Sprintf("it was not made by this program, and the server looks like one of %s, which may own it%s. Change it through the operator. "+
			"If it is yours: COMMENT ON ROLE %s IS '%s'", s.operator, ownerOf(have.owns), quote(name), mark)
	}
	return ""
}

func ownerOf(databases []string) string {
	if len(databases) == 0 {
		return ""
	}
	return " as the owner of database " + bounded(strings.Join(databases, ", "))
}

// namedBy returns the operator whose role has this name on this operator's server.
func namedBy(name, operator string) string {
	for owner, names := range operatorRoles {
		if slices.Contains(names, name) {
			return owner
		}
	}
	if slices.Contains(commonNames[operator], name) {
		return operator
	}
	return ""
}
