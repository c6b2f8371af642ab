package config

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// clusterNameMax is the longest name of a cluster. clusterNameSigns are the signs that may follow its first letter or digit:
// https://docs.aws.amazon.com/eks/latest/APIReference/API_CreateCluster.html.
const (
	clusterNameMax   = 100
	clusterNameSigns = "_-"
)

func (c *Config) readEnvironment(getenv func(string) string, errs *Errors) {
	read := func(key string, set func(string) error) {
		value := getenv(key)
		if value == "" {
			return
		}
		if err := set(value); err != nil {
			*errs = append(*errs, Error{Key: key, Reason: err.Error()})
		}
	}
	read("CLUSTER_NAME", c.setCluster)
	read("QUIESCE_QUEUE_URL", setURL(&c.QueueURL))
	read("QUIESCE_DLQ_URL", setURL(&c.DeadLetterURL))
	read("QUIESCE_REPORT_BUCKET", c.setReportBucket)
	read("QUIESCE_CLUSTER_ENDPOINT", setEndpoint(&c.Endpoint))
	read("QUIESCE_CLUSTER_CA", c.setCA)
	requireEndpointAndCA(getenv, errs)
	if getenv("QUIESCE_CONFIG") != "" && getenv("QUIESCE_CONFIG_TEXT") != "" {
		*errs = append(*errs, Error{Key: "QUIESCE_CONFIG_TEXT", Reason: "not allowed with QUIESCE_CONFIG: the configuration is in one place"})
	}
}

// requireEndpointAndCA reports an endpoint without its CA, and a CA without its endpoint. One alone identifies no cluster.
func requireEndpointAndCA(getenv func(string) string, errs *Errors) {
	endpoint, ca := getenv("QUIESCE_CLUSTER_ENDPOINT") != "", getenv("QUIESCE_CLUSTER_CA") != ""
	switch {
	case endpoint && !ca:
		*errs = append(*errs, Error{Key: "QUIESCE_CLUSTER_CA", Reason: "required with QUIESCE_CLUSTER_ENDPOINT"})
	case ca && !endpoint:
		*errs = append(*errs, Error{Key: "QUIESCE_CLUSTER_ENDPOINT", Reason: "required with QUIESCE_CLUSTER_CA"})
	}
}

func (c *Config) setCluster(name string) error {
	if !isClusterName(name) {
		return fmt.Errorf("not a cluster name: %q", name)
	}
	c.Cluster = name
	return nil
}

func isClusterName(name string) bool {
	invalid := strings.ContainsFunc(name, func(r rune) bool {
		letter := '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
		return !letter && !strings.ContainsRune(clusterNameSigns, r)
	})
	return name != "" && len(name) <= clusterNameMax && !invalid && !strings.ContainsAny(name[:1], clusterNameSigns)
}

// bucketName is the form of an S3 bucket name: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html.
// An ARN, of an access point say, would need other permissions than the stack grants.
const bucketName = `^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`

func (c *Config) setReportBucket(name string) error {
	c.ReportBucket = name
	return matching("a bucket name", bucketName)(name)
}

func (c *Config) setCA(encoded string) error {
	pem, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("not base64: %w", err)
	}
	if _, err := readCertificates(pem); err != nil {
		return err
	}
	c.CA = pem
	return nil
}

// readCertificates returns the certificates in a text of PEM blocks. A block that is none is an error, and not skipped: it may be a
// key, or the one certificate that is needed.
func readCertificates(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM certificate")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q, not a certificate", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("not a certificate: %w", err)
		}
		pool.AddCert(certificate)
	}
	return pool, nil
}

// setEndpoint sets the endpoint of an API server. The function's token goes there, so it is an https URL of a host and no more.
func setEndpoint(into *string) func(string) error {
	return func(text string) error {
		parsed, err := url.Parse(text)
		switch {
		case err != nil || parsed.Scheme != "https" || parsed.Hostname() == "":
			return errors.New("not an https URL with a host, such as https://ABC.gr7.eu-west-1.eks.amazonaws.com")
		case parsed.User != nil:
			return errors.New("must not have a user or a password")
		case strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "":
			return errors.New("must have no path, query or fragment")
		}
		*into = text
		return nil
	}
}

func setURL(into *string) func(string) error {
	return func(text string) error {
		parsed, err := url.Parse(text)
		if err != nil || parsed.Scheme != "https" && parsed.Scheme != "http" || parsed.Hostname() == "" {
			return fmt.Errorf("not a URL with scheme https or http: %q", text)
		}
		*into = text
		return nil
	}
}
