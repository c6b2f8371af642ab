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

// longestName is how long a cluster's name may be, and furtherInName what it may have beside letters and digits, though not in front:
// https://docs.aws.amazon.com/eks/latest/APIReference/API_CreateCluster.html.
const (
	longestName   = 100
	furtherInName = "_-"
)

func (c *Config) readEnvironment(getenv func(string) string, faults *Errors) {
	read := func(key string, take func(string) error) {
		value := getenv(key)
		if value == "" {
			return
		}
		if err := take(value); err != nil {
			*faults = append(*faults, Error{Key: key, Reason: err.Error()})
		}
	}
	read("CLUSTER_NAME", c.setCluster)
	read("QUIESCE_QUEUE_URL", setURL(&c.QueueURL, "https", "http"))
	read("QUIESCE_DLQ_URL", setURL(&c.DeadLetterURL, "https", "http"))
	read("QUIESCE_REPORT_BUCKET", c.setReportBucket)
	read("QUIESCE_CLUSTER_ENDPOINT", setURL(&c.Endpoint, "https")) // the IAM token goes there
	read("QUIESCE_CLUSTER_CA", c.setCA)
	c.checkCluster(getenv, faults)
}

// checkCluster sees that the cluster's address is given whole: of half of it, nobody could say which cluster it is.
func (c *Config) checkCluster(getenv func(string) string, faults *Errors) {
	endpoint, ca := getenv("QUIESCE_CLUSTER_ENDPOINT") != "", getenv("QUIESCE_CLUSTER_CA") != ""
	switch {
	case endpoint && !ca:
		*faults = append(*faults, Error{Key: "QUIESCE_CLUSTER_CA", Reason: "missing beside QUIESCE_CLUSTER_ENDPOINT"})
	case ca && !endpoint:
		*faults = append(*faults, Error{Key: "QUIESCE_CLUSTER_ENDPOINT", Reason: "missing beside QUIESCE_CLUSTER_CA"})
	}
}

func (c *Config) setCluster(name string) error {
	if !namesCluster(name) {
		return fmt.Errorf("not a cluster's name: %q", name)
	}
	c.Cluster = name
	return nil
}

func namesCluster(name string) bool {
	foreign := strings.ContainsFunc(name, func(r rune) bool {
		letter := '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
		return !letter && !strings.ContainsRune(furtherInName, r)
	})
	return name != "" && len(name) <= longestName && !foreign && !strings.ContainsAny(name[:1], furtherInName)
}

// bucketName is what S3 lets a bucket be called: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html. An
// ARN, of an access point say, would ask for other rights than the stack grants.
const bucketName = `^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`

func (c *Config) setReportBucket(name string) error {
	c.ReportBucket = name
	return matching("a bucket's name", bucketName)(name)
}

func (c *Config) setCA(encoded string) error {
	pem, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("not base64: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("no certificate in PEM")
	}
	c.CA = pem
	return nil
}

func setURL(into *string, schemes ...string) func(string) error {
	return func(text string) error {
		parsed, err := url.Parse(text)
		if err != nil || !slices.Contains(schemes, parsed.Scheme) || parsed.Host == "" {
			return fmt.Errorf("not a URL with %s: %q", strings.Join(schemes, " or "), text)
		}
		*into = text
		return nil
	}
}
