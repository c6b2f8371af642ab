package scram

import (
	"crypto/sha256"
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"
)

// The exchange of RFC 7677, section 3.
func TestVerifier_ExampleOfRFC7677_SignsItsMessages(t *testing.T) {
	const message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
		"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	require.NoError(t, err)
	v, err := derive("pencil", salt, 4096)
	require.NoError(t, err)
	require.Equal(t, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", base64.StdEncoding.EncodeToString(keyed(v.serverKey, message)))

	// The client's key is its proof, xor the signature with the stored key: its hash is the stored key.
	proof, err := base64.StdEncoding.DecodeString("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	require.NoError(t, err)
	signature := keyed(v.storedKey, message)
	for i := range proof {
		proof[i] ^= signature[i]
	}
	require.Equal(t, v.storedKey, hash(proof))
}

func TestVerifier_StoredAndRead_MatchesItsPasswordOnly(t *testing.T) {
	v, err := New("pencil", Iterations)
	require.NoError(t, err)
	again, err := New("pencil", Iterations)
	require.NoError(t, err)
	require.NotEqual(t, v.Stored(), again.Stored(), "each verifier has a salt of its own")
	read, ok := Parse(v.Stored())
	require.True(t, ok)
	require.Equal(t, v, read)
	require.True(t, read.Matches("pencil"))
	require.False(t, read.Matches("pencils"))
	require.True(t, read.Equal(v))
	require.False(t, read.Equal(again))
}

func TestVerifier_OtherForms_AreNone(t *testing.T) {
	v, err := New("pencil", Iterations)
	require.NoError(t, err)
	for _, text := range []string{"", "pencil", "md5a6a0e3b0e6e29f1e5b8f1c8a8b7f1c9e", "SCRAM-SHA-256$0" + v.Stored()[len("SCRAM-SHA-256$4096"):],
		v.Stored() + "=", "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA"} {
		_, ok := Parse(text)
		require.False(t, ok, text)
	}
}

func TestVerifier_ManyIterations_NotComputed(t *testing.T) {
	v, err := New("pencil", Iterations)
	require.NoError(t, err)
	v.iterations = 999_999_999
	require.False(t, v.Matches("pencil"))
}

// RFC 4013, section 3, and what PostgreSQL does where the RFC forbids. server_test.go compares with the server.
func TestSASLprep_Passwords_AsPostgreSQLPreparesThem(t *testing.T) {
	for password, want := range map[string]string{
		"I\u00adX": "IX", "user": "user", "USER": "USER", "\u00aa": "a", "\u2168": "IX", "\u0007": "\u0007", "\u0627\u0031": "\u0627\u0031",
		"a\u00a0b": "a b", "a\u200bb": "a b", "e\u0301": "\u00e9", "\u00ad": "\u00ad", "\u2168\U0001f600": "\u2168\U0001f600",
		"\u2168\ue000": "\u2168\ue000", "\u2168\u05d0": "\u2168\u05d0", "\u05d0\ufb1d": "\u05d0\u05d9\u05b4", "\u05d0\u00ad\u05d0": "\u05d0\u05d0", "\xff\u2168": "\xff\u2168",
	} {
		require.Equal(t, want, saslprep(password), "%+q", password)
	}
}

func hash(key []byte) []byte {
	sum := sha256.Sum256(key)
	return sum[:]
}
