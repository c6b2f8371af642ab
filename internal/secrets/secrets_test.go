package secrets

import (
	"context"
	"errors"
	"iter"
	"quiesce/internal/escort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const password = "hunter2-never-shown"

// all tries every login, as if the console refused each.
func all(t *testing.T, source Source) (logins []escort.Login, failure error) {
	t.Helper()
	for login, err := range source(t.Context()) {
		if err != nil {
			require.NoError(t, failure, "an error is the last that there is")
			failure = err
			continue
		}
		logins = append(logins, login)
	}
	return logins, failure
}

// first tries one login, which the console takes.
func first(t *testing.T, source Source) escort.Login {
	t.Helper()
	next, stop := iter.Pull2(source(t.Context()))
	defer stop()
	login, err, ok := next()
	require.True(t, ok)
	require.NoError(t, err)
	return login
}

func TestCredentialsAreHandedToPodsOfTheirNamespacesOnly(t *testing.T) {
	asked := 0
	source := inOrder(func(context.Context) (escort.Login, bool, error) {
		asked++
		return escort.Login{User: "drainer", Password: password}, true, nil
	})
	bound := Bound(source, "db", "pool-*")
	for _, namespace := range []string{"db", "pool-a"} {
		require.Equal(t, "drainer", first(t, bound(namespace)).User)
	}
	require.Equal(t, 2, asked)
	for namespaces, reason := range map[string]string{
		"db":        "credentials are for namespace db, not web",
		"db pool-*": "credentials are for namespaces db, pool-*, not web",
		"":          "credentials are for no namespace, not web",
		"[":         "credentials are for namespace [, not web",
	} {
		logins, err := all(t, Bound(source, strings.Fields(namespaces)...)("web"))
		require.EqualError(t, err, reason)
		require.Empty(t, logins)
	}
	require.Equal(t, 2, asked, "a secret that is for others is not even read")
}

// kubernetes is a Secret whose value changes with each reading; the last one stays.
func kubernetes(values ...map[string][]byte) Source {
	reading := -1
	get := func(_ context.Context, namespace, name string) (map[string][]byte, error) {
		if namespace+"/"+name != "db/console" {
			return nil, errors.New("get secret " + namespace + "/" + name + ": not found")
		}
		reading = min(reading+1, len(values)-1)
		return values[reading], nil
	}
	return FromKubernetes(get, Ref{"db", "console", "user", "pass"})
}

func basic(user, password string) map[string][]byte {
	return map[string][]byte{"user": []byte(user), "pass": []byte(password), "more": []byte("x")}
}

func TestAKubernetesSecretIsReadAgainAfterARefusal(t *testing.T) {
	logins, err := all(t, kubernetes(basic("drainer", "old"), basic("drainer", "new")))
	require.NoError(t, err)
	require.Equal(t, []escort.Login{{User: "drainer", Password: "old"}, {User: "drainer", Password: "new"}}, logins)

	logins, err = all(t, kubernetes(basic("drainer", "old")))
	require.NoError(t, err)
	require.Equal(t, []escort.Login{{User: "drainer", Password: "old"}}, logins, "what did not change is not tried again")
}

func TestAKubernetesSecretIsReadAnewForEachPooler(t *testing.T) {
	source := kubernetes(basic("drainer", "old"), basic("drainer", "new"))
	require.Equal(t, escort.Login{User: "drainer", Password: "old"}, first(t, source))
	require.Equal(t, escort.Login{User: "drainer", Password: "new"}, first(t, source))
}

func TestAKubernetesSecretThatLacksAKeyIsNamedWithoutItsContent(t *testing.T) {
	_, err := all(t, kubernetes(map[string][]byte{"user": []byte("drainer"), "password": []byte(password)}))
	require.EqualError(t, err, "secret db/console: it has no text under the key pass")
	_, err = all(t, kubernetes(map[string][]byte{"pass": []byte(password)}))
	require.EqualError(t, err, "secret db/console: it has no text under the key user")
}

func TestAMissingKubernetesSecretIsTheReadersError(t *testing.T) {
	get := func(context.Context, string, string) (map[string][]byte, error) {
		return nil, errors.New("get secret db/gone: not found")
	}
	_, err := all(t, FromKubernetes(get, Ref{Namespace: "db", Name: "gone"}))
	require.EqualError(t, err, "get secret db/gone: not found")
}
