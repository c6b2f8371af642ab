package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"quiesce/internal/termination"
)

const (
	// maxRead bounds the reports that loadReports reads: a prefix that is too short would read the archive of years.
	maxRead = 1000
	// maxReport is as large as a report of the archive may be, in bytes.
	maxReport = 1 << 20
	// readsAtOnce is small beside what S3 allows, and reads a day of reports in seconds.
	readsAtOnce = 16
)

// loadReports reads the reports whose keys begin with the prefix, such as prod/2026/03/02/ for a day or prod/2026/03/02/i-0abc for an
// instance. It needs s3:ListBucket and s3:GetObject, which people have and the function has not.
func loadReports(ctx context.Context, config aws.Config, bucket, prefix string) ([]termination.Report, error) {
	client := s3.NewFromConfig(config, func(o *s3.Options) {
		o.DisableLogOutputChecksumValidationSkipped = true // an object without a checksum is no news for a terminal
	})
	keys, err := listKeys(ctx, client, bucket, prefix)
	if err != nil {
		return nil, err
	}
	reports, errs := make([]termination.Report, len(keys)), make([]error, len(keys))
	slots := make(chan struct{}, readsAtOnce)
	var reads sync.WaitGroup
	for i, key := range keys {
		slots <- struct{}{}
		reads.Go(func() {
			defer func() { <-slots }()
			if reports[i], errs[i] = loadReport(ctx, client, bucket, key); errs[i] != nil {
				errs[i] = fmt.Errorf("read s3://%s/%s: %w", bucket, key, errs[i])
			}
		})
	}
	reads.Wait()
	return reports, errors.Join(errs...)
}

// listKeys returns the keys of the reports that begin with the prefix.
func listKeys(ctx context.Context, client *s3.Client, bucket, prefix string) ([]string, error) {
	var keys []string
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list s3://%s/%s: %w", bucket, prefix, err)
		}
		for _, object := range page.Contents {
			if key := aws.ToString(object.Key); path.Ext(key) == ".json" {
				keys = append(keys, key)
			}
		}
		if len(keys) > maxRead {
			return nil, fmt.Errorf("more than %d reports begin with s3://%s/%s: give a longer prefix, such as a day", maxRead, bucket, prefix)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no report begins with s3://%s/%s: keys are %s", bucket, prefix, strings.Join(keyParts, "/"))
	}
	return keys, nil
}

// keyParts are the parts of a key, for people.
var keyParts = []string{"<cluster>", "<yyyy>", "<mm>", "<dd>", "<instance>-<time>-<random>.json"}

func loadReport(ctx context.Context, client *s3.Client, bucket, key string) (report termination.Report, err error) {
	object, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return report, err
	}
	defer func() { _ = object.Body.Close() }()
	err = json.NewDecoder(io.LimitReader(object.Body, maxReport)).Decode(&report)
	return report, err
}
