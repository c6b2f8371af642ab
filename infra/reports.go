package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/jsii-runtime-go"
)

// newReports creates the bucket of the reports, or returns nil. The bucket stays when the stack is deleted: its reports may still be needed.
func newReports(stack awscdk.Stack, d deployment) awss3.Bucket {
	if !d.Stack.ArchiveReports {
		return nil
	}
	bucket := awss3.NewBucket(stack, jsii.String("Reports"), &awss3.BucketProps{
		BlockPublicAccess: awss3.BlockPublicAccess_BLOCK_ALL(),
		Encryption:        awss3.BucketEncryption_S3_MANAGED,
		EnforceSSL:        jsii.Bool(true),
		RemovalPolicy:     awscdk.RemovalPolicy_RETAIN,
	})
	suppress(bucket, "AwsSolutions-S1", "Access logs would need a bucket of their own. CloudTrail can record access.")
	return bucket
}

// reportBucket returns the name of the bucket, or nil.
func (p parts) reportBucket() *string {
	if p.reports == nil {
		return nil
	}
	return p.reports.BucketName()
}
