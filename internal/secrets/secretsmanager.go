package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"

	"quiesce/internal/escort"
)

// cacheDuration is how long a process reuses a login. It is long enough that one request serves all poolers of a node. It is
// short enough that few poolers reject an outdated login after a rotation, which costs one more request.
const cacheDuration = time.Minute

// readTimeout limits one read, with the SDK's retries. Secrets Manager answers within tens of milliseconds. Where the function
// cannot reach it, as in a VPC without its endpoint, there must be time left to drain the pooler without a console.
const readTimeout = 10 * time.Second

// maxSecret is the longest text that Secrets Manager keeps, in bytes:
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html. A longer one is not decoded.
const maxSecret = 65_536

// The staging labels of a secret's versions:
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html#term_version.
const (
	current  = "AWSCURRENT"
	pending  = "AWSPENDING"  // exists during a rotation; some poolers may already use it
	previous = "AWSPREVIOUS" // exists after a rotation; some poolers may still use it
)

// notFound is the error code for a missing secret, and for a missing version of one.
const notFound = "ResourceNotFoundException"

// causes explains the error codes whose message does not say what to do:
// https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html#API_GetSecretValue_Errors.
var causes = map[string]string{
	"AccessDeniedException": "the function's role lacks secretsmanager:GetSecretValue on the secret, or kms:Decrypt on its key",
	"DecryptionFailure":     "the secret's KMS key cannot be used",
	"ThrottlingException":   "Secrets Manager throttles the account",
	notFound:                "no such secret in the region",
}

// API is the part of the Secrets Manager client that is used.
type API interface {
	GetSecretValue(
		context.Context, *secretsmanager.GetSecretValueInput, ...func(*secretsmanager.Options),
	) (*secretsmanager.GetSecretValueOutput, error)
}

// FromSecretsManager yields the current version of a secret: first as last read, then read again. Then it yields the pending
// version of a rotation, and then the previous version. If one of these two cannot be read, it yields the error and goes on.
func FromSecretsManager(client API, arn string, keys Keys) Source {
	m := &manager{client: client, arn: arn, keys: keys}
	return inOrder([]read{m.cached, m.current}, m.optional(pending), m.optional(previous))
}

type manager struct {
	client API
	arn    string
	keys   Keys

	mu   sync.Mutex
	last escort.Login
	at   time.Time // of the read; zero: none yet
}

// cached returns the current version, from the cache if that is fresh.
func (m *manager) cached(ctx context.Context) (escort.Login, bool, error) {
	m.mu.Lock()
	login, fresh := m.last, !m.at.IsZero() && time.Since(m.at) < cacheDuration
	m.mu.Unlock()
	if fresh {
		return login, true, nil
	}
	return m.current(ctx)
}

// current reads the current version into the cache.
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

// optional returns the read of a version that may not exist.
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
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	output, err := m.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &m.arn, VersionStage: &stage})
	if err != nil {
		return escort.Login{}, fmt.Errorf("get %s of secret %s: %w", stage, m.arn, withCause(err))
	}
	if output.SecretString == nil {
		return escort.Login{}, fmt.Errorf("%s of secret %s: binary, not JSON", stage, m.arn)
	}
	login, err := m.parse(*output.SecretString)
	if err != nil {
		return escort.Login{}, fmt.Errorf("%s of secret %s: %w", stage, m.arn, err)
	}
	return login, nil
}

// parse drops the errors of the JSON decoder: they quote the text.
func (m *manager) parse(text string) (escort.Login, error) {
	if len(text) > maxSecret {
		return escort.Login{}, fmt.Errorf("longer than %d bytes", maxSecret)
	}
	var members map[string]any // of any type: secrets of RDS have a number for a port
	if json.Unmarshal([]byte(text), &members) != nil {
		return escort.Login{}, errors.New("not a JSON object")
	}
	return m.keys.login(func(key string) string {
		value, _ := members[key].(string)
		return value
	})
}

// withCause adds the cause of the error, if its message does not say it.
func withCause(err error) error {
	if cause := causes[codeOf(err)]; cause != "" {
		return fmt.Errorf("%s: %w", cause, err)
	}
	return err
}

func codeOf(err error) string {
	var failed smithy.APIError
	if !errors.As(err, &failed) {
		return ""
	}
	return failed.ErrorCode()
}
