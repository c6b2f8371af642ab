package pgbouncer

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Userlist returns the path of the userlist, and what it has.
func (p *Pooler) Userlist(t testing.TB) (path, text string) {
	t.Helper()
	content, err := os.ReadFile(p.userlist)
	require.NoError(t, err)
	return p.userlist, string(content)
}

// ReplaceUserlist replaces the userlist, as a kubelet does. The pooler does not read it before it is told to.
func (p *Pooler) ReplaceUserlist(text string) error {
	if err := os.WriteFile(p.userlist+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(p.userlist+".new", p.userlist)
}
