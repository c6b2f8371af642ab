// Package archive is the adapter for S3: it stores reports for longer than the log exists.
package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"quiesce/internal/termination"
)

// Archive stores reports in a bucket. The bucket decides how they are encrypted and how long they stay.
type Archive struct {
	client          *s3.Client
	bucket, cluster string
}

var _ termination.Archive = (*Archive)(nil)

// New creates the client. It sends no request.
func New(config aws.Config, bucket, cluster string) *Archive {
	return &Archive{client: s3.NewFromConfig(config), bucket: bucket, cluster: cluster}
}

// Store implements termination.Archive.
func (a *Archive) Store(ctx context.Context, r termination.Report) error {
	body, err := json.Marshal(r.Within(maxBytes))
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	_, err = a.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &a.bucket, Key: aws.String(a.key(r)), Body: bytes.NewReader(body), ContentType: aws.String("application/json"),
		IfNoneMatch: aws.String("*"),
	})
	if err != nil && !isStored(err) {
		return fmt.Errorf("archive the report of %s: %w", r.InstanceID, err)
	}
	return nil
}

// maxBytes bounds a report in the archive: what tenants wrote is in it. Five thousand pods fit.
const maxBytes = 1 << 20

// isStored reports whether an object has the key already. The key is random, so it is this report: an earlier attempt stored it, and
// its answer was lost (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
func isStored(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "PreconditionFailed"
}

const (
	// timeFormat distinguishes the invocations of one drain, and sorts them.
	timeFormat = "20060102T150405.000000000Z"
	// randomLength is the length of the random part of a key: 40 bits, in base 32.
	randomLength = 8
)

// key returns <cluster>/<yyyy>/<mm>/<dd>/<instance>-<time>-<random>.json: the order in which people look for a report. Some tools read
// such folders as partitions. No two reports have the same key.
func (a *Archive) key(r termination.Report) string {
	at := r.StartedAt.UTC()
	return path.Join(a.cluster, at.Format("2006/01/02"), r.InstanceID+"-"+at.Format(timeFormat)+"-"+rand.Text()[:randomLength]+".json")
}
