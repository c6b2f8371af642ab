package rotate

import (
	"crypto/rand"
	"fmt"
	"strings"
)

const (
	// alphabet is what generated passwords are made of: letters and digits, which need no escape in a URL, a shell or a userlist.
	alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	// generatedLength is the length of a generated password: 190 bits.
	generatedLength = 32
	// minLength is what a given password must have. SCRAM's verifiers can be attacked by guessing.
	minLength = 16
	// maxLength is what every driver and pgbouncer accept.
	maxLength = 99
)

// generate returns a random password.
func generate() string {
	var b strings.Builder
	for b.Len() < generatedLength {
		var random [1]byte
		_, _ = rand.Read(random[:]) // never fails
		if most := 256 - 256%len(alphabet); int(random[0]) < most {
			b.WriteByte(alphabet[int(random[0])%len(alphabet)])
		}
	}
	return b.String()
}

// CheckPassword returns an error unless a given password is one that all parts store alike. The error has no part of it.
func CheckPassword(password string) error {
	unfit := func(r rune) bool { return r <= ' ' || r > '~' }
	switch {
	case len(password) < minLength || len(password) > maxLength:
		return fmt.Errorf("the password has %d bytes: give one of %d to %d", len(password), minLength, maxLength)
	case strings.ContainsFunc(password, unfit):
		return fmt.Errorf("the password has characters that are not printable ASCII: give one without")
	case isHashed(password):
		return fmt.Errorf("the password looks like a verifier: give the password itself")
	}
	return nil
}
