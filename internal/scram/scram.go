// Package scram computes what PostgreSQL and pgbouncer store instead of a password: a verifier of SCRAM-SHA-256 (RFC 5802, RFC 7677).
package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

const (
	// Iterations is PostgreSQL's own number (scram_iterations), and the least that RFC 7677 allows.
	Iterations = 4096
	// maxIterations bounds the work of comparing a password with what a server says: a second or so.
	maxIterations = 5_000_000
	saltSize      = 16 // bytes, as PostgreSQL's
)

// Verifier is enough to check a password, and too little to log in.
type Verifier struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey []byte
}

// New computes a verifier of the password with a new salt.
func New(password string, iterations int) (Verifier, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	return derive(password, salt, iterations)
}

func derive(password string, salt []byte, iterations int) (Verifier, error) {
	salted, err := pbkdf2.Key(sha256.New, saslprep(password), salt, iterations, sha256.Size)
	if err != nil {
		return Verifier{}, fmt.Errorf("compute a SCRAM verifier: %w", err)
	}
	storedKey := sha256.Sum256(keyed(salted, "Client Key"))
	return Verifier{iterations, salt, storedKey[:], keyed(salted, "Server Key")}, nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

var form = regexp.MustCompile(`^SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$`)

// Parse reads what is stored.
func Parse(text string) (v Verifier, ok bool) {
	parts := form.FindStringSubmatch(text)
	if parts == nil {
		return v, false
	}
	var errs [4]error
	v.iterations, errs[0] = strconv.Atoi(parts[1])
	v.salt, errs[1] = base64.StdEncoding.DecodeString(parts[2])
	v.storedKey, errs[2] = base64.StdEncoding.DecodeString(parts[3])
	v.serverKey, errs[3] = base64.StdEncoding.DecodeString(parts[4])
	return v, errors.Join(errs[:]...) == nil && v.iterations > 0 && len(v.storedKey) == sha256.Size && len(v.serverKey) == sha256.Size
}

// Matches reports whether the verifier is one of this password.
func (v Verifier) Matches(password string) bool {
	if v.iterations > maxIterations {
		return false
	}
	derived, err := derive(password, v.salt, v.iterations)
	return err == nil && v.isOf(derived)
}

// Equal reports whether both verifiers are the same.
func (v Verifier) Equal(other Verifier) bool {
	return v.iterations == other.iterations && string(v.salt) == string(other.salt) && v.isOf(other)
}

// isOf compares the keys in constant time.
func (v Verifier) isOf(other Verifier) bool {
	return subtle.ConstantTimeCompare(v.storedKey, other.storedKey)&subtle.ConstantTimeCompare(v.serverKey, other.serverKey) == 1
}

// Stored returns the verifier as it is stored. It is not called String: no format may print it by accident.
func (v Verifier) Stored() string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", v.iterations, encode(v.salt), encode(v.storedKey), encode(v.serverKey))
}
