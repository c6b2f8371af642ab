package main

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
	// defaultIterations is PostgreSQL's own number (scram_iterations), and the least that RFC 7677 allows.
	defaultIterations = 4096
	// maxIterations bounds the work of comparing a password with what a server says: a second or so.
	maxIterations = 5_000_000
	saltSize      = 16 // bytes, as PostgreSQL's
)

// verifier is what PostgreSQL stores instead of a password: enough to check one, and too little to log in (RFC 5802, RFC 7677).
type verifier struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey []byte
}

// newVerifier computes a verifier of the password with a new salt.
func newVerifier(password string, iterations int) (verifier, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	return deriveVerifier(password, salt, iterations)
}

func deriveVerifier(password string, salt []byte, iterations int) (verifier, error) {
	salted, err := pbkdf2.Key(sha256.New, saslprep(password), salt, iterations, sha256.Size)
	if err != nil {
		return verifier{}, fmt.Errorf("compute a SCRAM verifier: %w", err)
	}
	storedKey := sha256.Sum256(keyed(salted, "Client Key"))
	return verifier{iterations, salt, storedKey[:], keyed(salted, "Server Key")}, nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

var verifierForm = regexp.MustCompile(`^SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$`)

// parseVerifier reads what PostgreSQL stores.
func parseVerifier(text string) (v verifier, ok bool) {
	parts := verifierForm.FindStringSubmatch(text)
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

// matches reports whether the verifier is one of this password.
func (v verifier) matches(password string) bool {
	if v.iterations > maxIterations {
		return false
	}
	derived, err := deriveVerifier(password, v.salt, v.iterations)
	return err == nil && v.equal(derived)
}

func (v verifier) equal(other verifier) bool {
	return subtle.ConstantTimeCompare(v.storedKey, other.storedKey)&subtle.ConstantTimeCompare(v.serverKey, other.serverKey) == 1
}

// stored returns the verifier as PostgreSQL stores it. It is not called String: no format may print it by accident.
func (v verifier) stored() string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", v.iterations, encode(v.salt), encode(v.storedKey), encode(v.serverKey))
}

// secret is a password, or a verifier in its place. What prints it prints stars.
type secret struct{ text string }

func (s secret) String() string   { return "***" }
func (s secret) GoString() string { return "***" }

// isSet reports whether stored, as PostgreSQL has it, is a verifier of the secret.
func (s secret) isSet(stored string) bool {
	existing, ok := parseVerifier(stored)
	if !ok {
		return false
	}
	if own, is := parseVerifier(s.text); is {
		return existing.iterations == own.iterations && string(existing.salt) == string(own.salt) && existing.equal(own)
	}
	return existing.matches(s.text)
}

// toStore returns what PostgreSQL shall store. A verifier in place of a password is stored as it is, as PostgreSQL does.
func (s secret) toStore(iterations int) (string, error) {
	if own, is := parseVerifier(s.text); is {
		return own.stored(), nil
	}
	v, err := newVerifier(s.text, iterations)
	return v.stored(), err
}
