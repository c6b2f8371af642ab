// Package archive is the edge to S3: where reports are kept for longer than the log is.
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

// Archive keeps reports in a bucket, which says how they are encrypted and for how long they stay.
type Archive struct {
	client          *s3.Client
	bucket, cluster string
}

var _ termination.Archive = (*Archive)(nil)

// New makes the client. It sends nothing.
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
		return fmt.Errorf("keep the report of %s: %w", r.InstanceID, err)
	}
	return nil
}

// stamp tells the slices of one drain apart, and sorts them.
const stamp = "20060102T150405.000Z"

// key is by cluster and day, as one looks for a report, and for tools that read such folders as partitions.
func (a *Archive) key(r termination.Report) string {
	at := r.StartedAt.UTC()
	return path.Join(a.cluster, at.Format("2006/01/02"), r.InstanceID+"-"+at.Format(stamp)+".json")
}
