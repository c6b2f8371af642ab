package asg

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// SpotInterrupted implements termination.Groups. EC2 marks the request of a Spot instance when it warns, two minutes before the
// instance ends. The request says when it was marked
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SpotInstanceStatus.html).
func (g *Groups) SpotInterrupted(ctx context.Context, instanceID string) (since time.Time, interrupted bool, err error) {
	pages := ec2.NewDescribeSpotInstanceRequestsPaginator(g.compute, &ec2.DescribeSpotInstanceRequestsInput{Filters: byInstance(instanceID)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return time.Time{}, false, fmt.Errorf("describe the Spot request of %s: %w", instanceID, err)
		}
		for _, request := range page.SpotInstanceRequests {
			if request.Status != nil && isInterruption(aws.ToString(request.Status.Code)) {
				return aws.ToTime(request.Status.UpdateTime), true, nil
			}
		}
	}
	return time.Time{}, false, nil
}

// isInterruption reports whether a status code of a Spot request says that EC2 takes the instance back. The codes are those with
// these beginnings, such as marked-for-termination and instance-stopped-no-capacity, except for what a user did
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html). Only EC2 sets a code, so it is safe to accept codes
// of a kind that are not documented yet.
func isInterruption(code string) bool {
	if strings.HasSuffix(code, "-by-user") {
		return false
	}
	for _, beginning := range []string{"marked-for-", "instance-terminated-", "instance-stopped-", "instance-hibernated-"} {
		if strings.HasPrefix(code, beginning) {
			return true
		}
	}
	return false
}
