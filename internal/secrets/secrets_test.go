package secrets

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/test/parts/bubble"
)

const password = "hunter2-never-shown"

// all tries every login, as if the console rejected each.
func all(t *testing.T, source Source) (logins []escort.Login, failure error) {
	t.Helper()
	for login, err := range source(t.Context()) {
		if err != nil {
			require.NoError(t, failure, "one error at most")
			failure = err
			continue
		}
		logins = append(logins, login)
	}
	return logins, failure
}

// first tries one login, as if the console accepted it.
func first(t *testing.T, source Source) escort.Login {
	t.Helper()
	next, stop := iter.Pull2(source(t.Context()))
	defer stop()
	login, err, ok := next()
	require.True(t, ok)
	require.NoError(t, err)
	return login
}

func TestBound_OtherNamespace_IsAnError(t *testing.T) {
	asked := 0
	source := inOrder([]read{func(context.Context) (escort.Login, bool, error) {
		asked++
		return escort.Login{User: "drainer", Password: password}, true, nil
	}})
	in := func(namespace string, allowed ...string) Source {
		return func(ctx context.Context) iter.Seq2[escort.Login, error] {
			return Bound(source, allowed...)(ctx, namespace)
		}
	}
	for _, namespace := range []string{"db", "pool-a"} {
		require.Equal(t, "drainer", first(t, in(namespace, "db", "pool-*")).User)
	}
	require.Equal(t, 2, asked)
	for namespaces, reason := range map[string]string{
		"db":        "credentials are for namespace db, not web",
		"db pool-*": "credentials are for namespaces db, pool-*, not web",
		"":          "credentials are for no namespace, not web",
		"[":         "credentials are for namespace [, not web",
	} {
		logins, err := all(t, in("web", strings.Fields(namespaces)...))
		require.EqualError(t, err, reason)
		require.ErrorIs(t, err, escort.ErrOtherNamespace)
		require.Empty(t, logins)
	}
	require.Equal(t, 2, asked, "the secret is not even read for other namespaces")
}

// kubernetes returns the source of a Secret whose value changes with each read. The last value stays.
func kubernetes(values ...map[string][]byte) Source {
	reads := -1
	get := func(_ context.Context, namespace, name string) (map[string][]byte, error) {
		if namespace+"/"+name != "db/pgbouncer-admin" {
			return nil, errors.New("get secret " + namespace + "/" + name + ": not found")
		}
		reads = min(reads+1, len(values)-1)
		return values[reads], nil
	}
	return FromKubernetes(get, "db", "pgbouncer-admin", Keys{User: "user", Password: "pass"})
}

func basic(user, password string) map[string][]byte {
	return map[string][]byte{"user": []byte(user), "pass": []byte(password), "more": []byte("x")}
}

func TestKubernetesSecret_LoginRejected_ReadAgain(t *testing.T) {
	logins, err := all(t, kubernetes(basic("drainer", "old"), basic("drainer", "new")))
	require.NoError(t, err)
	require.Equal(t, []escort.Login{{User: "drainer", Password: "old"}, {User: "drainer", Password: "new"}}, logins)

	logins, err = all(t, kubernetes(basic("drainer", "old")))
	require.NoError(t, err)
	require.Equal(t, []escort.Login{{User: "drainer", Password: "old"}}, logins, "an unchanged login is not tried again")
}

func TestKubernetesSecret_EachPooler_ReadAgain(t *testing.T) {
	source := kubernetes(basic("drainer", "old"), basic("drainer", "new"))
	require.Equal(t, escort.Login{User: "drainer", Password: "old"}, first(t, source))
	require.Equal(t, escort.Login{User: "drainer", Password: "new"}, first(t, source))
}

func TestKubernetesSecret_KeyMissing_ErrorHasNoContent(t *testing.T) {
	_, err := all(t, kubernetes(map[string][]byte{"user": []byte("drainer"), "password": []byte(password)}))
	require.EqualError(t, err, "secret db/pgbouncer-admin: no text under key pass")
	_, err = all(t, kubernetes(map[string][]byte{"pass": []byte(password)}))
	require.EqualError(t, err, "secret db/pgbouncer-admin: no text under key user")
}

func TestKubernetesSecret_Missing_ReturnsReadError(t *testing.T) {
	get := func(context.Context, string, string) (map[string][]byte, error) {
		return nil, errors.New("get secret db/gone: not found")
	}
	_, err := all(t, FromKubernetes(get, "db", "gone", RDSKeys))
	require.EqualError(t, err, "get secret db/gone: not found")
}

// A value that no console could take is an error without the value.
func TestLogin_ValueThatCannotBeSent_ErrorHasNoContent(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	for _, c := range []struct {
		user, password string
		want           string
	}{
		{"", password, "no text under key user"},
		{"drainer", "", "no text under key pass"},
		{long, password, "text under key user has more than 256 bytes"},
		{"drainer", long + password, "text under key pass has more than 4096 bytes"},
		{"drainer\x00database\x00postgres", password, "text under key user has a zero byte"},
		{"drainer", password + "\x00", "text under key pass has a zero byte"},
	} {
		_, err := all(t, kubernetes(basic(c.user, c.password)))
		require.EqualError(t, err, "secret db/pgbouncer-admin: "+c.want)
	}
	logins, err := all(t, kubernetes(basic(long[:maxUser], long[:maxPassword])))
	require.NoError(t, err)
	require.Len(t, logins, 1)
}

func TestKubernetesSecret_NoAnswer_TimesOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := all(t, FromKubernetes(func(ctx context.Context, _, _ string) (map[string][]byte, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}, "db", "s", RDSKeys))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, kubernetesTimeout, time.Since(began))
	})
}
