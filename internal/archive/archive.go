// Package archive is the adapter for S3: it stores reports for longer than the log exists.
package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

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
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	_, err = a.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &a.bucket, Key: aws.String(a.key(r)), Body: bytes.NewReader(body), ContentType: aws.String("application/json"),
	})
	if err != nil {
		return fmt.Errorf("archive the report of %s: %w", r.InstanceID, err)
	}
	return nil
}

// timeFormat distinguishes the invocations of one drain, and sorts them.
const timeFormat = "20060102T150405.000Z"

// key returns <cluster>/<yyyy>/<mm>/<dd>/<instance>-<time>.json: the order in which people look for a report. Some tools read
// such folders as partitions.
func (a *Archive) key(r termination.Report) string {
	at := r.StartedAt.UTC()
	return path.Join(a.cluster, at.Format("2006/01/02"), r.InstanceID+"-"+at.Format(timeFormat)+".json")
}
