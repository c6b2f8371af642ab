package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"quiesce/internal/escort"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"
)

// cacheFor is how long a process uses a login without asking again: long enough for the poolers of a node to be seen out on
// one request, short enough that after a rotation few are asked with a login that they refuse, which costs one more request.
const cacheFor = time.Minute

// askTimeout bounds one look, the SDK's repetitions included. Secrets Manager answers within tens of milliseconds; a function
// without a way to it, such as a VPC without its endpoint, is to leave time for seeing the pooler out without a console.
const askTimeout = 10 * time.Second

// The staging labels of a secret's versions:
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html#term_version.
const (
	current  = "AWSCURRENT"
	pending  = "AWSPENDING"  // there during a rotation only, when poolers may have it already
	previous = "AWSPREVIOUS" // there once a rotation has ended, which some poolers may not have heard of
)

// notFound is the error code for a secret, or a version of it, that does not exist.
const notFound = "ResourceNotFoundException"

// causes explain error codes where AWS's own words do not say what to do:
// https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html#API_GetSecretValue_Errors.
var causes = map[string]string{
	"AccessDeniedException": "the function's role lacks secretsmanager:GetSecretValue on it, or kms:Decrypt on its key",
	"DecryptionFailure":     "its KMS key cannot be used",
	"ThrottlingException":   "Secrets Manager throttles the account",
	notFound:                "there is no such secret in the region",
}

// API is what is needed of Secrets Manager.
type API interface {
	GetSecretValue(
		context.Context, *secretsmanager.GetSecretValueInput, ...func(*secretsmanager.Options),
	) (*secretsmanager.GetSecretValueOutput, error)
}

// FromSecretsManager yields the current version of a secret as last seen, then as it is now, then the version that a rotation
// is about to make current, then the one that it replaced.
func FromSecretsManager(client API, arn string, keys Keys) Source {
	m := &manager{client: client, arn: arn, keys: keys}
	return inOrder(m.remembered, m.current, m.optional(pending), m.optional(previous))
}

type manager struct {
	client API
	arn    string
	keys   Keys

	mu   sync.Mutex
	last escort.Login
	at   time.Time // when it was read; zero: never
}

func (m *manager) remembered(ctx context.Context) (escort.Login, bool, error) {
	m.mu.Lock()
	login, fresh := m.last, !m.at.IsZero() && time.Since(m.at) < cacheFor
	m.mu.Unlock()
	if fresh {
		return login, true, nil
	}
	return m.current(ctx)
}

func (m *manager) current(ctx context.Context) (escort.Login, bool, error) {
	login, err := m.version(ctx, current)
	if err != nil {
		return escort.Login{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.at = login, time.Now()
	return login, true, nil
}

// optional reads a version that a secret need not have.
func (m *manager) optional(stage string) read {
	return func(ctx context.Context) (escort.Login, bool, error) {
		login, err := m.version(ctx, stage)
		if codeOf(err) == notFound {
			return escort.Login{}, false, nil
		}
		return login, err == nil, err
	}
}

func (m *manager) version(ctx context.Context, stage string) (escort.Login, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	output, err := m.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &m.arn, VersionStage: &stage})
	if err != nil {
		return escort.Login{}, fmt.Errorf("get %s of secret %s: %w", stage, m.arn, explained(err))
	}
	if output.SecretString == nil {
		return escort.Login{}, fmt.Errorf("%s of secret %s: it is binary, not JSON", stage, m.arn)
	}
	login, err := m.parse(*output.SecretString)
	if err != nil {
		return escort.Login{}, fmt.Errorf("%s of secret %s: %w", stage, m.arn, err)
	}
	return login, nil
}

// parse keeps the JSON decoder's errors to itself: they quote what they failed on.
func (m *manager) parse(text string) (escort.Login, error) {
	var members map[string]any // of any type: RDS's secrets have a number for a port
	if json.Unmarshal([]byte(text), &members) != nil {
		return escort.Login{}, errors.New("it is not a JSON object")
	}
	return m.keys.login(func(key string) string {
		value, _ := members[key].(string)
		return value
	})
}

func explained(err error) error {
	if cause := causes[codeOf(err)]; cause != "" {
		return fmt.Errorf("%s: %w", cause, err)
	}
	return err
}

func codeOf(err error) string {
	var failure smithy.APIError
	if !errors.As(err, &failure) {
		return ""
	}
	return failure.ErrorCode()
}
