package cloudnativepg

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quiesce/test/env/database"
)

const (
	// role is the role of the clients, and its own password. Where poolers ask the database for passwords, the operator keeps it as in a
	// Secret of the same name, which has a SCRAM verifier at first.
	role = "worker"

	salt       = "0123456789abcdef"
	iterations = 4096 // as PostgreSQL has it
)

// verifier returns what PostgreSQL keeps of the role's password (https://www.postgresql.org/docs/17/catalog-pg-authid.html).
func verifier() string {
	salted, err := pbkdf2.Key(sha256.New, role, []byte(salt), iterations, sha256.Size)
	if err != nil {
		panic(err) // only for weak keys in FIPS mode
	}
	sign := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode([]byte(salt)), encode(stored[:]), encode(sign("Server Key")))
}

// prepareRole lets the clients do in the database what they do elsewhere as its superuser, if they have a role of their own.
func (c *Cluster) prepareRole(ctx context.Context) error {
	if !c.options.Poolers.AuthQuery {
		return nil
	}
	if err := c.awaitPassword(ctx, func(kept string) bool { return kept == verifier() }); err != nil {
		return err
	}
	_, err := c.query(ctx, "ALTER ROLE "+role+" SUPERUSER")
	return err
}

// UsePlainPassword replaces the verifier in the role's Secret by the password, and waits until the operator has hashed that.
func (c *Cluster) UsePlainPassword(ctx context.Context) error {
	patch, err := json.Marshal(map[string]any{"stringData": map[string]string{"password": role}})
	if err != nil {
		return err
	}
	_, err = c.lab.Client().CoreV1().Secrets(c.options.Namespace).Patch(ctx, role, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("change the role's Secret: %w", err)
	}
	return c.AwaitNewPassword(ctx, verifier())
}

// Password returns what the primary keeps of the role's password: its SCRAM verifier.
func (c *Cluster) Password(ctx context.Context) (string, error) {
	rows, err := c.query(ctx, "SELECT COALESCE(rolpassword, '') FROM pg_authid WHERE rolname = '"+role+"'")
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("%d roles %s", len(rows), role)
	}
	if err != nil {
		return "", fmt.Errorf("read the role's password: %w", err)
	}
	return string(rows[0][0]), nil
}

// AwaitNewPassword waits until the primary keeps another SCRAM verifier than the old one: the operator has hashed the password.
func (c *Cluster) AwaitNewPassword(ctx context.Context, old string) error {
	return c.awaitPassword(ctx, func(kept string) bool { return kept != old })
}

// awaitPassword waits until the primary keeps such a password of the role.
func (c *Cluster) awaitPassword(ctx context.Context, wanted func(kept string) bool) error {
	return c.members().Await(ctx, "the role's password", func() (string, bool) {
		kept, err := c.Password(ctx)
		if err != nil {
			return err.Error(), false
		}
		return kept, strings.HasPrefix(kept, "SCRAM-SHA-256$") && wanted(kept)
	})
}

func (c *Cluster) query(ctx context.Context, sql string) ([][][]byte, error) {
	address, err := c.addressOfPrimary(ctx)
	if err != nil {
		return nil, err
	}
	return database.Query(ctx, address, sql)
}
