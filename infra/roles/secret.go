package main

import (
	"errors"
	"regexp"
	"strings"

	"quiesce/internal/scram"
)

// secret is a password, or a verifier in its place. What prints it prints stars.
type secret struct{ text string }

func (s secret) String() string   { return "***" }
func (s secret) GoString() string { return "***" }

// md5 is an older hash, as PostgreSQL stores it.
var md5 = regexp.MustCompile(`^md5[0-9a-f]{32}$`)

// check refuses what PostgreSQL would not take for a password, and this program cannot take for a verifier. It would become a password of
// its own, and clients with the real one could no longer log in. Its errors do not have the text.
func (s secret) check() error {
	_, isVerifier := scram.Parse(s.text)
	switch {
	case md5.MatchString(s.text):
		return errors.New("an MD5 hash: give the password, or a SCRAM-SHA-256 verifier")
	case strings.HasPrefix(s.text, "SCRAM-SHA-256$") && !isVerifier:
		return errors.New("not a complete SCRAM-SHA-256 verifier: give the password, or the whole text that PostgreSQL stores")
	}
	return nil
}

// isSet reports whether stored, as PostgreSQL has it, is a verifier of the secret.
func (s secret) isSet(stored string) bool {
	existing, ok := scram.Parse(stored)
	if !ok {
		return false
	}
	if own, is := scram.Parse(s.text); is {
		return existing.Equal(own)
	}
	return existing.Matches(s.text)
}

// toStore returns what PostgreSQL shall store. A verifier in place of a password is stored as it is, as PostgreSQL does.
func (s secret) toStore(iterations int) (string, error) {
	if own, is := scram.Parse(s.text); is {
		return own.Stored(), nil
	}
	v, err := scram.New(s.text, iterations)
	return v.Stored(), err
}
