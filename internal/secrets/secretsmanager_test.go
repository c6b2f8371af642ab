package secrets

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"quiesce/internal/escort"
	"quiesce/test/parts/awstest"
	"quiesce/test/parts/bubble"
)

const name = "pgbouncer-admin"

// account returns the AWS APIs, and a client with the settings of a function in that account.
func account(t *testing.T) (*awstest.Server, *secretsmanager.Client) {
	t.Helper()
	server, config := awstest.Serve(t)
	return server, secretsmanager.NewFromConfig(config)
}

func rds(password string) string {
	return `{"username":"drainer","password":"` + password + `","engine":"postgres","port":5432}`
}

func stages(server *awstest.Server) (asked []string) {
	for _, call := range server.Calls() {
		asked = append(asked, call.Params.Get("VersionStage"))
	}
	return asked
}

func passwords(logins []escort.Login) (all []string) {
	for _, login := range logins {
		all = append(all, login.Password)
	}
	return all
}

func TestSecretsManager_LoginRejected_TriesNextVersion(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{
		awstest.StageCurrent: rds("b"), awstest.StagePending: rds("c"), awstest.StagePrevious: rds("a"),
	})
	logins, err := all(t, FromSecretsManager(client, arn, RDSKeys))
	require.NoError(t, err)
	require.Equal(t, []string{"b", "c", "a"}, passwords(logins))
	require.Equal(t, "drainer", logins[0].User)
	require.Equal(t, []string{current, current, pending, previous}, stages(server))
	require.Equal(t, arn, server.Calls()[0].Params.Get("SecretId"))
}

func TestSecretsManager_LoginAccepted_ReadsOnce(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: rds("b"), awstest.StagePrevious: rds("a")})
	source := FromSecretsManager(client, arn, RDSKeys)
	for range 3 { // three poolers
		require.Equal(t, "b", first(t, source).Password)
	}
	require.Equal(t, []string{current}, stages(server))
}

func TestSecretsManager_VersionsMissing_AreSkipped(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: rds("b")})
	logins, err := all(t, FromSecretsManager(client, arn, RDSKeys))
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, passwords(logins))
	require.Len(t, server.Calls(), 4)
}

func TestSecretsManager_SameLoginTwice_TriedOnce(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{
		awstest.StageCurrent: rds("b"), awstest.StagePending: rds("b"), awstest.StagePrevious: rds("a"),
	})
	logins, err := all(t, FromSecretsManager(client, arn, RDSKeys))
	require.NoError(t, err)
	require.Equal(t, []string{"b", "a"}, passwords(logins))
}

func TestSecretsManager_CachedLoginRejected_ReadAgain(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: rds("a"), awstest.StagePending: rds("b")})
	source := FromSecretsManager(client, arn, RDSKeys)
	next, stop := iter.Pull2(source(t.Context()))
	defer stop()
	login, err, _ := next()
	require.NoError(t, err)
	require.Equal(t, "a", login.Password)

	server.RotateSecret(name) // while the console rejects the login
	login, err, _ = next()
	require.NoError(t, err)
	require.Equal(t, "b", login.Password)
	_, _, ok := next()
	require.False(t, ok, "the previous version is the login that was rejected")
	require.Equal(t, "b", first(t, source).Password, "the next pooler gets the new login")
}

func TestSecretsManager_AfterRotation_YieldsPreviousLogin(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: rds("a"), awstest.StagePending: rds("b")})
	source := FromSecretsManager(client, arn, RDSKeys)
	require.Equal(t, "a", first(t, source).Password)
	server.RotateSecret(name)
	for range 2 {
		logins, err := all(t, source)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a", "b"}, passwords(logins))
	}
}

func TestSecretsManager_OtherKeys_AreRead(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: `{"u":"drainer","p":"a"}`})
	require.Equal(t, escort.Login{User: "drainer", Password: "a"}, first(t, FromSecretsManager(client, arn, Keys{User: "u", Password: "p"})))
}

func TestSecretsManager_BadForm_ErrorHasNoContent(t *testing.T) {
	server, client := account(t)
	for text, reason := range map[string]string{
		password:             "not a JSON object",
		`"` + password + `"`: "not a JSON object",
		`{"username":"drainer","password":"` + password: "not a JSON object",
		`null`: "no text under key username",
		`{"username":"drainer","pass":"` + password + `"}`: "no text under key password",
		`{"username":"drainer","password":42}`:             "no text under key password",
		`{"username":"","password":"` + password + `"}`:    "no text under key username",
	} {
		arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: text})
		_, err := all(t, FromSecretsManager(client, arn, RDSKeys))
		require.EqualError(t, err, "AWSCURRENT of secret "+arn+": "+reason)
	}
}

func TestSecretsManager_APIError_HasCause(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: rds(password)})
	for code, reason := range map[string]string{
		"AccessDeniedException":   "the function's role lacks secretsmanager:GetSecretValue on the secret, or kms:Decrypt on its key",
		"DecryptionFailure":       "the secret's KMS key cannot be used",
		"InvalidRequestException": "marked for deletion",
	} {
		remove := server.Fail("secretsmanager", "", awstest.Fault{
			Code: http.StatusBadRequest, ErrorCode: code, Message: "marked for deletion",
		})
		_, err := all(t, FromSecretsManager(client, arn, RDSKeys))
		require.ErrorContains(t, err, "get AWSCURRENT of secret "+arn)
		require.ErrorContains(t, err, reason)
		remove()
	}
	_, err := all(t, FromSecretsManager(client, arn+"-gone", RDSKeys))
	require.ErrorContains(t, err, "no such secret")
}

func TestSecretsManager_Throttled_Retries(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: rds("a")})
	server.Fail("secretsmanager", "", awstest.Fault{
		Times: 1, Code: http.StatusBadRequest, ErrorCode: "ThrottlingException", Message: "Rate exceeded",
	})
	require.Equal(t, "a", first(t, FromSecretsManager(client, arn, RDSKeys)).Password)
	require.Len(t, server.Calls(), 2)
}

// A rotation that failed may leave a pending version of another form. Poolers may still have the previous password.
func TestSecretsManager_PendingUnreadable_TriesPrevious(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{
		awstest.StageCurrent: rds("b"), awstest.StagePending: "not yet written", awstest.StagePrevious: rds("a"),
	})
	logins, err := all(t, FromSecretsManager(client, arn, RDSKeys))
	require.EqualError(t, err, "AWSPENDING of secret "+arn+": not a JSON object")
	require.Equal(t, []string{"b", "a"}, passwords(logins))
}

func TestSecretsManager_CurrentUnreadable_EndsSequence(t *testing.T) {
	server, client := account(t)
	arn := server.AddSecret(name, map[string]string{awstest.StageCurrent: "not yet written", awstest.StagePrevious: rds("a")})
	logins, err := all(t, FromSecretsManager(client, arn, RDSKeys))
	require.EqualError(t, err, "AWSCURRENT of secret "+arn+": not a JSON object")
	require.Empty(t, logins)
	require.Equal(t, []string{current}, stages(server))
}

// answers is Secrets Manager without a network, for tests with a simulated clock. Without an answer it times out.
type answers func() (*secretsmanager.GetSecretValueOutput, error)

func (a answers) GetSecretValue(
	ctx context.Context, _ *secretsmanager.GetSecretValueInput, _ ...func(*secretsmanager.Options),
) (*secretsmanager.GetSecretValueOutput, error) {
	if a == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return a()
}

func TestSecretsManager_Login_CachedForAMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		asked := 0
		source := FromSecretsManager(answers(func() (*secretsmanager.GetSecretValueOutput, error) {
			asked++
			return &secretsmanager.GetSecretValueOutput{SecretString: aws.String(rds("a"))}, nil
		}), "arn", RDSKeys)
		first(t, source)
		time.Sleep(cacheDuration - time.Nanosecond)
		first(t, source)
		require.Equal(t, 1, asked)
		time.Sleep(time.Nanosecond)
		first(t, source)
		require.Equal(t, 2, asked)
	})
}

func TestSecretsManager_Error_NotCached(t *testing.T) {
	fail := true
	source := FromSecretsManager(answers(func() (*secretsmanager.GetSecretValueOutput, error) {
		if fail {
			return nil, errors.New("no route")
		}
		return &secretsmanager.GetSecretValueOutput{SecretString: aws.String(rds("a"))}, nil
	}), "arn", RDSKeys)
	_, err := all(t, source)
	require.ErrorContains(t, err, "no route")
	fail = false
	require.Equal(t, "a", first(t, source).Password)
}

func TestSecretsManager_BinarySecret_IsAnError(t *testing.T) {
	_, err := all(t, FromSecretsManager(answers(func() (*secretsmanager.GetSecretValueOutput, error) {
		return &secretsmanager.GetSecretValueOutput{SecretBinary: []byte(password)}, nil
	}), "arn", RDSKeys))
	require.EqualError(t, err, "AWSCURRENT of secret arn: binary, not JSON")
}

func TestSecretsManager_Unreachable_TimesOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := all(t, FromSecretsManager(answers(nil), "arn", RDSKeys))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, readTimeout, time.Since(began))
	})
}

func TestSecretsManager_HugeSecret_ErrorHasNoContent(t *testing.T) {
	_, err := (&manager{keys: RDSKeys}).parse(rds(strings.Repeat(password, 65_536/len(password))))
	require.EqualError(t, err, "longer than 65536 bytes")
}
