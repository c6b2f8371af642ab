package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/jsii-runtime-go"
)

// newReports is the bucket that reports are kept in, or nil. It stays when the stack goes: it is what one wants to look at then.
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
	excuse(bucket, "AwsSolutions-S1", "A log of who read the reports would need a bucket of its own; CloudTrail can keep it.")
	return bucket
}

// reportBucket is its name, or nil.
func (p parts) reportBucket() *string {
	if p.reports == nil {
		return nil
	}
	return p.reports.BucketName()
}
