package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"quiesce/internal/escort"
	"quiesce/internal/kube"
	"quiesce/internal/secrets"
)

// login is the flags that say how one logs in to consoles.
type login struct {
	secrets            []string
	keys               []string
	user               string
	passwordFile, from string
}

func (l *login) addFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&l.secrets, "console-secret", nil, "Secret with the login of the consoles in its namespace, as namespace/name; may be repeated")
	flags.StringSliceVar(&l.keys, "console-keys", []string{"username", "password"}, "keys of --console-secret: user, password")
	flags.StringVar(&l.user, "user", "", "user of the consoles, for --password-file or --password-env")
	flags.StringVar(&l.passwordFile, "password-file", "", "file with the user's password")
	flags.StringVar(&l.from, "password-env", "", "environment variable with the user's password")
}

// logins returns what the flags name; nil: they name none.
func (l *login) logins(client *kube.Client) (escort.Logins, error) {
	switch {
	case len(l.secrets) > 0:
		return l.fromSecrets(client)
	case l.user != "":
		return l.given()
	case l.passwordFile != "" || l.from != "":
		return nil, errors.New("--password-file and --password-env need --user")
	}
	return nil, nil
}

// fromSecrets returns the logins in Secrets, each for the poolers of its namespace.
func (l *login) fromSecrets(client *kube.Client) (escort.Logins, error) {
	if len(l.keys) != 2 {
		return nil, errors.New("--console-keys must be two names, such as username,password")
	}
	keys := secrets.Keys{User: l.keys[0], Password: l.keys[1]}
	of := map[string]escort.Logins{}
	for _, text := range l.secrets {
		namespace, name, err := namespacedName("--console-secret", text)
		if err != nil {
			return nil, err
		}
		if of[namespace] != nil {
			return nil, fmt.Errorf("--console-secret names two Secrets of namespace %s, and its consoles get one login: run it once with each", namespace)
		}
		of[namespace] = secrets.Bound(secrets.FromKubernetes(client.Secret, namespace, name, keys), namespace)
	}
	return func(ctx context.Context, namespace string) iter.Seq2[escort.Login, error] {
		if logins := of[namespace]; logins != nil {
			return logins(ctx, namespace)
		}
		return func(yield func(escort.Login, error) bool) {
			yield(escort.Login{}, fmt.Errorf("no login for poolers in namespace %s: name its Secret with --console-secret %s/NAME", namespace, namespace))
		}
	}, nil
}

// given returns the login of the flags. No error has a part of the password.
func (l *login) given() (escort.Logins, error) {
	var password string
	switch {
	case l.passwordFile != "":
		text, err := os.ReadFile(l.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
		password = strings.TrimRight(string(text), "\r\n")
	case l.from != "":
		password = os.Getenv(l.from)
	default:
		return nil, errors.New("--user needs --password-file or --password-env")
	}
	if password == "" {
		return nil, errors.New("the password is empty: check --password-file or --password-env")
	}
	return func(context.Context, string) iter.Seq2[escort.Login, error] {
		return func(yield func(escort.Login, error) bool) { yield(escort.Login{User: l.user, Password: password}, nil) }
	}, nil
}
