package config

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
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
	read("QUIESCE_QUEUE_URL", setURL(&c.QueueURL, "https", "http"))
	read("QUIESCE_DLQ_URL", setURL(&c.DeadLetterURL, "https", "http"))
	read("QUIESCE_REPORT_BUCKET", c.setReportBucket)
	read("QUIESCE_CLUSTER_ENDPOINT", setURL(&c.Endpoint, "https")) // the IAM token goes there
	read("QUIESCE_CLUSTER_CA", c.setCA)
	requireEndpointAndCA(getenv, errs)
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
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("no PEM certificate")
	}
	c.CA = pem
	return nil
}

func setURL(into *string, schemes ...string) func(string) error {
	return func(text string) error {
		parsed, err := url.Parse(text)
		if err != nil || !slices.Contains(schemes, parsed.Scheme) || parsed.Host == "" {
			return fmt.Errorf("not a URL with scheme %s: %q", strings.Join(schemes, " or "), text)
		}
		*into = text
		return nil
	}
}
