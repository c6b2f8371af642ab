package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOptions_Invalid_Named(t *testing.T) {
	usual := "-poolers a -databases b "
	for flags, want := range map[string]string{
		"":                                       "-poolers and -databases",
		"-poolers a":                             "-poolers and -databases",
		"-poolers a -databases quiesce":          "alias",
		usual + "-transactions 20s":              "-transactions",
		usual + "-resume-after 5s":               "-resume-after",
		usual + "-resume-after 5m":               "-resume-after",
		usual + "-patroni http://db:8008":        "-patroni",
		usual + "-patroni https://169.254.1.1/x": "-patroni",
		usual + "-no-such-flag":                  "no-such-flag",
	} {
		_, _, err := readOptions(strings.Fields(flags))
		require.ErrorContains(t, err, want, flags)
	}
}

func TestOptions_ArgumentsOfPatroni_AreTheRest(t *testing.T) {
	o, rest, err := readOptions(strings.Fields("-poolers a,b:5432 -databases c,d -patroni https://localhost:8009 on_role_change primary demo"))
	require.NoError(t, err)
	require.Equal(t, []string{"on_role_change", "primary", "demo"}, rest)
	require.Equal(t, []string{"a", "b:5432"}, list(o.poolers))
	require.Equal(t, []string{"c", "d"}, list(o.databases))
}

func TestTarget_Credentials_FromFolderOrEnvironment(t *testing.T) {
	t.Setenv(userVariable, "of the environment")
	t.Setenv(passwordVariable, "secret 1")
	target, err := options{}.target()
	require.NoError(t, err)
	require.Equal(t, [2]string{"of the environment", "secret 1"}, [2]string{target.User, target.Password})

	folder := t.TempDir()
	_, err = options{credentials: folder}.target()
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "username"), []byte("of the folder\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "password"), []byte("secret 2"), 0o600))
	target, err = options{credentials: folder}.target()
	require.NoError(t, err)
	require.Equal(t, [2]string{"of the folder", "secret 2"}, [2]string{target.User, target.Password})

	t.Setenv(userVariable, "")
	_, err = options{}.target()
	require.ErrorContains(t, err, "no credentials")
	_, err = options{credentials: folder, ca: filepath.Join(folder, "password")}.target()
	require.ErrorContains(t, err, "no certificates")
}

func TestAddresses_NamesAndPorts_EachOnce(t *testing.T) {
	found, err := options{poolers: "127.0.0.1,127.0.0.1:6432,[::1]:7000,no-such-host.invalid"}.addresses(t.Context())
	require.ErrorContains(t, err, "no-such-host.invalid", "what cannot be found is named")
	require.Equal(t, []string{"127.0.0.1:6432", "[::1]:7000"}, found, "the others are used")
}

func TestIsPromotion_RoleAppendedByPatroni_Decides(t *testing.T) {
	for args, want := range map[string]bool{
		"on_role_change primary demo":                              true,
		"-poolers a on_role_change master demo":                    true,
		"-poolers a -- theirs on_role_change primary demo":         true,
		"-poolers a -- theirs on_role_change replica demo":         false,
		"on_role_change standby_leader demo":                       false,
		"-poolers a -- theirs primary on_role_change demoted demo": false,
		"-poolers a":              false,
		"on_restart primary demo": false,
	} {
		require.Equal(t, want, isPromotion(strings.Fields(args)), args)
	}
}
