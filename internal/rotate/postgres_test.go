package rotate

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	parts "quiesce/test/parts/pgbouncer"
	"quiesce/test/parts/postgres"
)

func TestPostgres_RolesThatAreUnfit_SaysWhatToDo(t *testing.T) {
	parts.Require(t)
	database := postgres.Shared(t)
	primary, err := Connection(fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", database.Addr), true)
	require.NoError(t, err)
	p := &Postgres{Primary: primary, Group: "unfit_group"}
	for _, sql := range []string{
		"CREATE ROLE unfit_group NOLOGIN", "CREATE ROLE outsider LOGIN", "CREATE ROLE plain IN ROLE unfit_group",
		"CREATE ROLE fit IN ROLE unfit_group", "ALTER ROLE fit SET role TO unfit_group", "CREATE ROLE boss SUPERUSER",
	} {
		database.Query(t, sql)
	}
	defer database.Query(t, "DROP ROLE IF EXISTS outsider, plain, fit, boss, unfit_group, streaming_replica")
	for name, says := range map[string]string{
		"fit": "", "outsider": `GRANT "unfit_group" TO "outsider"`, "plain": `ALTER ROLE "plain" SET role TO "unfit_group"`,
		"boss": "superuser", "postgres": "superuser", `no"body`: `CREATE ROLE "no""body" NOLOGIN`,
	} {
		role, err := p.Role(t.Context(), name)
		require.NoError(t, err)
		require.Contains(t, role.Unfit, says, name)
		require.Equal(t, says == "", role.Unfit == "", name)
		require.Equal(t, name == "outsider" || name == "postgres", role.CanLogin, name)
	}
	database.Query(t, "CREATE ROLE streaming_replica")
	role, err := p.Role(t.Context(), "fit")
	require.NoError(t, err)
	require.Contains(t, role.Unfit, "the server looks like one of CloudNativePG")
	p.NotManaged = true
	role, err = p.Role(t.Context(), "fit")
	require.NoError(t, err)
	require.Empty(t, role.Unfit)
	database.Query(t, "COMMENT ON ROLE fit IS '"+RolesMark+"'")
	p.NotManaged = false
	role, err = p.Role(t.Context(), "fit")
	require.NoError(t, err)
	require.Empty(t, role.Unfit, "the program roles made it")
	require.NoError(t, p.Check(t.Context()))
}

// initdb without a locale makes databases that have no encoding, and the simple protocol needs one.
func TestConnection_DatabaseWithoutEncoding_Works(t *testing.T) {
	parts.Require(t)
	database := postgres.Shared(t)
	database.Query(t, "CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	defer database.Query(t, "DROP DATABASE plain")
	primary, err := Connection(fmt.Sprintf("postgres://postgres@%s/plain?sslmode=disable", database.Addr), true)
	require.NoError(t, err)
	_, err = (&Postgres{Primary: primary}).Sessions(t.Context(), "nobody")
	require.NoError(t, err)
}

func TestConnection_Nonsense_ErrorDoesNotShowIt(t *testing.T) {
	_, err := Connection("postgres://user:secret@host:port/db", true)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}
