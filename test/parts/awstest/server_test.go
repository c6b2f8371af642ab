package awstest_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

const (
	group = "workers-a"
	hook  = "quiesce"
	id    = "i-0123456789abcdef0"

	// waitTimeout bounds every wait for something that takes milliseconds. Only a broken package reaches it.
	waitTimeout = 20 * time.Second
	// pollInterval is the time between checks of a condition.
	pollInterval = 5 * time.Millisecond
)

func start(t *testing.T) *awstest.Server {
	t.Helper()
	s, err := awstest.Start()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// startWithInstance starts a server with one instance, in a group with these hooks.
func startWithInstance(t *testing.T, hooks ...awstest.Hook) *awstest.Server {
	t.Helper()
	s := start(t)
	s.AddGroup(group, hooks...)
	s.AddInstance(group, awstest.Instance{ID: id, Zone: "eu-west-1a", PrivateDNS: "ip-10-0-1-2.eu-west-1.compute.internal"})
	return s
}

func configOf(s *awstest.Server, sess awstest.Session) aws.Config {
	return aws.Config{
		Region:       awstest.Region,
		HTTPClient:   awstest.HTTPClient(),
		BaseEndpoint: aws.String(s.URL()),
		Credentials:  credentials.NewStaticCredentialsProvider(sess.AccessKeyID, sess.SecretAccessKey, sess.Token),
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
	}
}

func config(s *awstest.Server) aws.Config { return configOf(s, s.Session("fn")) }

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var failure smithy.APIError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, code, failure.ErrorCode())
}

func describeHooks(ctx context.Context, cfg aws.Config) error {
	_, err := autoscaling.NewFromConfig(cfg).DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{
		AutoScalingGroupName: aws.String(group),
	})
	return err
}

func TestRequest_WrongSecret_Refused(t *testing.T) {
	s := startWithInstance(t)
	sess := s.Session("fn")
	require.NoError(t, describeHooks(t.Context(), configOf(s, sess)))
	sess.SecretAccessKey += "x"
	requireCode(t, describeHooks(t.Context(), configOf(s, sess)), "SignatureDoesNotMatch")
	require.Equal(t, http.StatusForbidden, s.Calls()[1].Code)
	require.Empty(t, s.Calls()[1].Session)
}

func TestRequest_UnknownKeyOrToken_Refused(t *testing.T) {
	s := startWithInstance(t)
	sess, other := s.Session("fn"), s.Session("fn")
	require.NotEqual(t, sess.AccessKeyID, other.AccessKeyID)
	stolen := sess
	stolen.AccessKeyID = "ASIAUNKNOWN"
	requireCode(t, describeHooks(t.Context(), configOf(s, stolen)), "InvalidClientTokenId")
	mixed := sess
	mixed.Token = other.Token
	requireCode(t, describeHooks(t.Context(), configOf(s, mixed)), "InvalidClientTokenId")
}

func TestRequest_SignedForOtherRegion_Refused(t *testing.T) {
	s := startWithInstance(t)
	cfg := config(s)
	cfg.Region = "us-east-1"
	requireCode(t, describeHooks(t.Context(), cfg), "SignatureDoesNotMatch")
}

func TestRequest_Unsigned_Refused(t *testing.T) {
	s := start(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/?Action=GetCallerIdentity", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
}

func TestGetCallerIdentity_Session_AssumedRole(t *testing.T) {
	s := start(t)
	out, err := sts.NewFromConfig(config(s)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	require.NoError(t, err)
	require.Equal(t, "arn:aws:sts::111122223333:assumed-role/quiesce/fn", *out.Arn)
	require.Equal(t, awstest.Account, *out.Account)
	require.Equal(t, "arn:aws:iam::111122223333:role/quiesce", s.RoleARN())
}

func TestAction_NotModeled_Refused(t *testing.T) {
	s := start(t)
	_, err := autoscaling.NewFromConfig(config(s)).DescribePolicies(t.Context(), &autoscaling.DescribePoliciesInput{})
	requireCode(t, err, "InvalidAction")
}

func TestDescribeInstances_PrivateDNS_UntilTerminated(t *testing.T) {
	s := startWithInstance(t)
	client := ec2.NewFromConfig(config(s))
	named := &ec2.DescribeInstancesInput{InstanceIds: []string{id}}
	out, err := client.DescribeInstances(t.Context(), named)
	require.NoError(t, err)
	require.Equal(t, "ip-10-0-1-2.eu-west-1.compute.internal", *out.Reservations[0].Instances[0].PrivateDnsName)
	s.SetState(id, "")
	out, err = client.DescribeInstances(t.Context(), named)
	require.NoError(t, err)
	require.Empty(t, *out.Reservations[0].Instances[0].PrivateDnsName)
	require.EqualValues(t, "terminated", out.Reservations[0].Instances[0].State.Name)
}

func TestDescribeInstances_Unknown_ErrorByIDEmptyByFilter(t *testing.T) {
	s := startWithInstance(t)
	client := ec2.NewFromConfig(config(s))
	_, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{"i-0"}})
	requireCode(t, err, "InvalidInstanceID.NotFound")
	for value, found := range map[string]int{"i-0": 0, id: 1} {
		out, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filter(value)})
		require.NoError(t, err)
		require.Len(t, out.Reservations, found)
	}
}

func TestDescribeCluster_Added_HasEndpointAndCA(t *testing.T) {
	s := start(t)
	s.AddCluster("prod", "https://127.0.0.1:6443", []byte("PEM"))
	client := eks.NewFromConfig(config(s))
	out, err := client.DescribeCluster(t.Context(), &eks.DescribeClusterInput{Name: aws.String("prod")})
	require.NoError(t, err)
	require.Equal(t, "https://127.0.0.1:6443", *out.Cluster.Endpoint)
	require.Equal(t, "UEVN", *out.Cluster.CertificateAuthority.Data)
	_, err = client.DescribeCluster(t.Context(), &eks.DescribeClusterInput{Name: aws.String("test")})
	requireCode(t, err, "ResourceNotFoundException")
}

func TestEnvironment_SDK_CallsThisServer(t *testing.T) {
	s := startWithInstance(t)
	sess := s.Session("fn")
	for _, entry := range s.Environment(sess) {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	require.Empty(t, os.Getenv("AWS_ENDPOINT_URL_STS"), "an EKS token must name the real STS")
	require.NoError(t, describeHooks(t.Context(), loadConfig(t)))
	calls := s.CallsOf(sess)
	require.Len(t, calls, 1)
	require.Equal(t, "autoscaling DescribeLifecycleHooks", calls[0].Service+" "+calls[0].Action)
	require.Equal(t, http.StatusOK, calls[0].Code)
	require.Equal(t, group, calls[0].Params.Get("AutoScalingGroupName"))
	require.Empty(t, s.CallsOf(s.Session("other")))
}
