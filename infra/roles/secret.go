package main

import "quiesce/internal/scram"

// secret is a password, or a verifier in its place. What prints it prints stars.
type secret struct{ text string }

func (s secret) String() string   { return "***" }
func (s secret) GoString() string { return "***" }

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
