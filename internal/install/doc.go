// Package install installs what quiesce needs in a cluster of Kubernetes: its namespace, its permissions, and the policies that confine
// them. It knows the manifests of infra/, and fills in those that are templates.
//
// All is done by server-side apply (https://kubernetes.io/docs/reference/using-api/server-side-apply/), so that a second time changes
// nothing. No password is made or read: manifests name the Secrets that have them.
package install

import "embed"

// files are copies of infra/rbac*.yaml, because a program can only embed what is below it. A test compares them.
//
//go:generate sh -c "cp ../../infra/rbac*.yaml manifests/"
//go:embed manifests
var files embed.FS

// The manifests.
const (
	baseFile    = "rbac.yaml"
	consoleFile = "rbac-console.yaml"
	patroniFile = "rbac-postgres-patroni.yaml"
	cnpgFile    = "rbac-postgres-cnpg.yaml"
)
