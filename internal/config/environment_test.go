package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"quiesce/internal/config"
)

// certificate is some CA's, in PEM.
func certificate(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestEnvironment_WithFile_AddsAndWins(t *testing.T) {
	ca := certificate(t)
	c, err := config.Parse([]byte(least), environment(map[string]string{
		"CLUSTER_NAME":             "staging",
		"QUIESCE_QUEUE_URL":        "https://sqs.eu-west-1.amazonaws.com/111122223333/quiesce",
		"QUIESCE_DLQ_URL":          "http://127.0.0.1:9324/quiesce-dlq",
		"QUIESCE_REPORT_BUCKET":    "reports-of.prod",
		"QUIESCE_CLUSTER_ENDPOINT": "https://0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com",
		"QUIESCE_CLUSTER_CA":       base64.StdEncoding.EncodeToString(ca),
	}))

	require.NoError(t, err)
	require.Equal(t, "staging", c.Cluster)
	require.Equal(t, "https://sqs.eu-west-1.amazonaws.com/111122223333/quiesce", c.QueueURL)
	require.Equal(t, "http://127.0.0.1:9324/quiesce-dlq", c.DeadLetterURL)
	require.Equal(t, "reports-of.prod", c.ReportBucket)
	require.Equal(t, "https://0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com", c.Endpoint)
	require.Equal(t, ca, c.CA)
}

func TestClusterName_OnlyInEnvironment_IsEnough(t *testing.T) {
	c, err := config.Parse([]byte("{autoScalingGroups: [a], mode: drain}"), environment(map[string]string{"CLUSTER_NAME": "prod"}))
	require.NoError(t, err)
	require.Equal(t, "prod", c.Cluster)
}

func TestEnvironment_Invalid_IsRefused(t *testing.T) {
	const endpoint = "https://example.eks.amazonaws.com"
	ca := base64.StdEncoding.EncodeToString(certificate(t))
	for _, c := range []struct {
		variables map[string]string
		want      string
	}{
		{map[string]string{"CLUSTER_NAME": "-prod"}, `CLUSTER_NAME: not a cluster name: "-prod"`},
		{
			map[string]string{"QUIESCE_REPORT_BUCKET": "arn:aws:s3:::b"},
			`QUIESCE_REPORT_BUCKET: not a bucket name: arn:aws:s3:::b`,
		},
		{map[string]string{"QUIESCE_QUEUE_URL": "sqs://q"}, `QUIESCE_QUEUE_URL: not a URL with scheme https or http: "sqs://q"`},
		{map[string]string{"QUIESCE_DLQ_URL": "https://"}, `QUIESCE_DLQ_URL: not a URL with scheme https or http: "https://"`},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": "http://example", "QUIESCE_CLUSTER_CA": ca},
			"QUIESCE_CLUSTER_ENDPOINT: not an https URL with a host, such as https://ABC.gr7.eu-west-1.eks.amazonaws.com",
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": "https://:443", "QUIESCE_CLUSTER_CA": ca},
			"QUIESCE_CLUSTER_ENDPOINT: not an https URL with a host, such as https://ABC.gr7.eu-west-1.eks.amazonaws.com",
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": "https://me:secret@example", "QUIESCE_CLUSTER_CA": ca},
			"QUIESCE_CLUSTER_ENDPOINT: must not have a user or a password",
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": "https://example/clusters?x=1", "QUIESCE_CLUSTER_CA": ca},
			"QUIESCE_CLUSTER_ENDPOINT: must have no path, query or fragment",
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": endpoint, "QUIESCE_CLUSTER_CA": pemOf("PRIVATE KEY", "x")},
			`QUIESCE_CLUSTER_CA: a PEM block of type "PRIVATE KEY", not a certificate`,
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": endpoint, "QUIESCE_CLUSTER_CA": pemOf("CERTIFICATE", "x")},
			"QUIESCE_CLUSTER_CA: not a certificate: x509: malformed certificate",
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": endpoint, "QUIESCE_CLUSTER_CA": "%"},
			"QUIESCE_CLUSTER_CA: not base64: illegal base64 data at input byte 0",
		},
		{
			map[string]string{"QUIESCE_CLUSTER_ENDPOINT": endpoint, "QUIESCE_CLUSTER_CA": "aGVsbG8="},
			"QUIESCE_CLUSTER_CA: no PEM certificate",
		},
		{map[string]string{"QUIESCE_CLUSTER_ENDPOINT": endpoint}, "QUIESCE_CLUSTER_CA: required with QUIESCE_CLUSTER_ENDPOINT"},
		{map[string]string{"QUIESCE_CLUSTER_CA": ca}, "QUIESCE_CLUSTER_ENDPOINT: required with QUIESCE_CLUSTER_CA"},
		{
			map[string]string{"QUIESCE_CONFIG": "mine.yaml", "QUIESCE_CONFIG_TEXT": least},
			"QUIESCE_CONFIG_TEXT: not allowed with QUIESCE_CONFIG: the configuration is in one place",
		},
	} {
		_, err := config.Parse([]byte(least), environment(c.variables))
		require.Equal(t, []string{c.want}, lines(t, err))
	}
}

func TestClusterName_EKSForm_IsAccepted(t *testing.T) {
	for name, taken := range map[string]bool{
		"a": true, "9-a_B": true, "azAZ09": true, strings.Repeat("a", 100): true, strings.Repeat("a", 101): false, "_a": false, "a.b": false, "prüf": false,
	} {
		_, err := config.Parse([]byte(least), environment(map[string]string{"CLUSTER_NAME": name}))
		require.Equal(t, taken, err == nil, "%s: %v", name, err)
	}
}

// pemOf returns a PEM block, in the form of QUIESCE_CLUSTER_CA.
func pemOf(kind, content string) string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(content)}))
}
