package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/internal/config"
	"quiesce/internal/doctor"
	"quiesce/internal/wire"
)

func nodeOf(providerID, region string) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelTopologyRegion: region}}, Spec: corev1.NodeSpec{ProviderID: providerID},
	}
}

func TestAWSConfig_Region_IsThatOfTheFlagThenOfTheNodesThenOfTheEnvironment(t *testing.T) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "HOME": t.TempDir()} {
		t.Setenv(name, value)
	}
	instance, hybrid := nodeOf("aws:///eu-west-1a/i-1", "eu-west-1"), nodeOf("eks-hybrid:///eu-west-3/prod/mi-1", "eu-west-3")
	for _, c := range []struct {
		flag  string
		nodes []corev1.Node
		want  string
	}{
		{"eu-west-2", []corev1.Node{instance}, "eu-west-2"},
		{"", []corev1.Node{hybrid, instance}, "eu-west-1"},
		{"", []corev1.Node{hybrid}, "us-east-1"},
		{"", nil, "us-east-1"},
	} {
		r := &reader{options: &options{region: c.flag}}
		r.snapshot.Nodes = c.nodes
		settings, err := r.awsConfig(t.Context())
		require.NoError(t, err)
		require.Equal(t, c.want, settings.Region, "%v", c)
	}
}

// In another account EC2 knows no node. That is no fault of the nodes.
func TestWrongAccount_NoInstanceKnown_SaysWhatToCheck(t *testing.T) {
	require.NoError(t, wrongAccount(0, 0, "eu-west-1"), "Fargate only")
	require.NoError(t, wrongAccount(3, 1, "eu-west-1"))
	err := wrongAccount(3, 0, "eu-west-1")
	require.EqualError(t, err, "none of the nodes' instances is in this account in region eu-west-1")
	r := &reader{}
	r.unread("AWS", err)
	require.Equal(t, "check --profile and --region", r.snapshot.Unread[0].Fix)
	require.False(t, r.snapshot.AWS)
	require.True(t, errors.As(err, new(advisedError)))
}

func TestAWSConfig_UnknownProfile_SaysWhatToCheck(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	r := &reader{options: &options{profile: "typo", region: "eu-west-1"}}
	_, err := r.awsConfig(t.Context())
	require.ErrorContains(t, err, "typo")
	r.unread("AWS", err)
	require.Equal(t, "check --profile and ~/.aws/config", r.snapshot.Unread[0].Fix)
}

// Logging in again does not help everybody.
func TestUsable_ProviderFails_CauseIsNamed(t *testing.T) {
	failing := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("AccessDenied: not authorized to perform sts:AssumeRole")
	})
	err := usable(t.Context(), aws.Config{Region: "eu-west-1", Credentials: failing})
	require.ErrorContains(t, err, "there are no usable AWS credentials: AccessDenied: not authorized to perform sts:AssumeRole")
}

// profile writes an AWS configuration with one profile, and returns its name.
func profile(t *testing.T, lines ...string) string {
	t.Helper()
	folder := t.TempDir()
	for _, variable := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(variable, "")
	}
	text := "[profile base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = secret\n[profile special]\n" + strings.Join(lines, "\n")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "config"), []byte(text), 0o600))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(folder, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	return "special"
}

// A code is good for one use, and a command may load its settings twice.
func TestAccount_ProfileWithMFA_AsksForTheCodeOnce(t *testing.T) {
	name := profile(t, "role_arn = arn:aws:iam::111122223333:role/operator", "source_profile = base", "mfa_serial = arn:aws:iam::111122223333:mfa/me")
	codes := make(chan string, 9)
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		codes <- r.FormValue("SerialNumber") + " " + r.FormValue("TokenCode")
		fmt.Fprintf(w, "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"+
			"<SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)

	o := &options{profile: name, region: "eu-west-1"}
	_, err := o.account(t.Context(), "")
	require.EqualError(t, err, "the AWS profile needs the code of an MFA device")
	advice, _ := errors.AsType[advisedError](err)
	require.Equal(t, "run it in a terminal, which asks for the code", advice.fix)

	o.askCode = func() (string, error) { return "123456", nil }
	for _, load := range []sdkLoader{wire.LoadSDK, awsconfig.LoadDefaultConfig} {
		settings, err := o.loadAWS(t.Context(), load, awsconfig.WithRegion("eu-west-1"))
		require.NoError(t, err)
		found, err := settings.Credentials.Retrieve(t.Context())
		require.NoError(t, err)
		require.Equal(t, "AKIDROLE", found.AccessKeyID)
	}
	require.Equal(t, "arn:aws:iam::111122223333:mfa/me 123456", <-codes)
	require.Empty(t, codes)
}

func TestCodeAsker_NoTerminal_AsksNobody(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "input"))
	require.NoError(t, err)
	defer file.Close()
	require.Nil(t, codeAsker(file, os.Stderr))
}

// A helper program may open a browser. The metadata service, which is not everywhere, gets less time.
func TestAccount_SlowHelperProgram_IsWaitedFor(t *testing.T) {
	name := profile(t, `credential_process = sh -c 'sleep 4; echo "{\"Version\": 1, \"AccessKeyId\": \"AKIDHELPER\", \"SecretAccessKey\": \"s\"}"'`)
	settings, err := (&options{profile: name, region: "eu-west-1"}).account(t.Context(), "")
	require.NoError(t, err)
	found, err := settings.Credentials.Retrieve(t.Context())
	require.NoError(t, err)
	require.Equal(t, "AKIDHELPER", found.AccessKeyID)
}

func TestAccount_MetadataServiceHangs_EndsSoon(t *testing.T) {
	name := profile(t, "region = eu-west-1")
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hanging.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", hanging.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	_, err := (&options{profile: name}).account(t.Context(), "")
	require.ErrorContains(t, err, "none came within 3s")
}

// A check of the bare name would go to $LATEST, which nothing else invokes.
func TestReadFunction_Name_IsInvokedWithItsAlias(t *testing.T) {
	server, settings := newBucket(t)
	server.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	for given, want := range map[string]doctor.Function{
		"":                  {Name: "quiesce-prod", Invoked: "quiesce-prod:live"},
		"quiesce-prod":      {Name: "quiesce-prod", Invoked: "quiesce-prod:live"},
		"quiesce-prod:blue": {Name: "quiesce-prod:blue", Invoked: "quiesce-prod:blue"},
	} {
		r := &reader{options: &options{function: given}}
		require.NoError(t, r.readFunction(t.Context(), settings, "prod"))
		require.Equal(t, &want, r.snapshot.Function, "%q", given)
	}
	var described []string
	for _, call := range server.Calls() {
		if call.Action == "GetFunctionConfiguration" {
			described = append(described, call.Params.Get("FunctionName"))
		}
	}
	require.ElementsMatch(t, []string{"quiesce-prod:live", "quiesce-prod:live", "quiesce-prod:blue"}, described, "another version may have been rolled back")
}

// Its state is Active all the same.
func TestReadFunction_NoExecutionsReserved_IsStopped(t *testing.T) {
	server, settings := newBucket(t)
	server.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	for reserved, stopped := range map[int]bool{0: true, 1: false} {
		server.Reserve("quiesce-prod", reserved)
		for _, given := range []string{"", "quiesce-prod:blue"} {
			r := &reader{options: &options{function: given}}
			require.NoError(t, r.readFunction(t.Context(), settings, "prod"))
			require.Equal(t, stopped, strings.Contains(r.snapshot.Function.Problem, "it is stopped"), "%d %s", reserved, given)
			require.False(t, slices.ContainsFunc(r.snapshot.Unread, func(u doctor.Unread) bool { return u.Part == "concurrency of quiesce" }))
		}
	}
}

// Sweeps and checks run on meanwhile, and all looks well.
func TestReadFunction_MappingDisabled_GetsNoEvents(t *testing.T) {
	server, settings := newBucket(t)
	server.AddFunction("quiesce-prod", func(context.Context, []byte) ([]byte, string, error) { return nil, "", nil })
	for state, stopped := range map[string]bool{"Disabled": true, "Disabling": true, "Enabled": false, "Updating": false} {
		server.SetMapping("quiesce-prod:live", state)
		r := &reader{options: &options{}}
		require.NoError(t, r.readFunction(t.Context(), settings, "prod"))
		require.Equal(t, stopped, strings.Contains(r.snapshot.Function.Problem, "it gets no events"), state)
		require.False(t, slices.ContainsFunc(r.snapshot.Unread, func(u doctor.Unread) bool { return strings.HasPrefix(u.Part, "event source") }))
	}
}

func TestWithAlias_FormsOfNames_OnlyABareOneGetsIt(t *testing.T) {
	const arn = "arn:aws:lambda:eu-west-1:111122223333:function:"
	for given, want := range map[string]string{
		"mine": "mine:live", "mine:live": "mine:live", "mine:7": "mine:7", arn + "mine": arn + "mine:live", arn + "mine:blue": arn + "mine:blue",
		"111122223333:function:mine": "111122223333:function:mine:live", "111122223333:function:mine:3": "111122223333:function:mine:3",
	} {
		require.Equal(t, want, withAlias(given), given)
		require.Equal(t, withoutAlias(given), withoutAlias(want), given)
		require.True(t, strings.HasSuffix(withoutAlias(want), "mine"), given)
	}
}

func TestFunctionName_OfDoctor_IsPassedOn(t *testing.T) {
	for given, want := range map[string]string{
		"": "quiesce-prod", "mine": "mine", "mine:blue": "mine:blue",
		"arn:aws:lambda:eu-west-1:111122223333:function:quiesce-prod:live": "arn:aws:lambda:eu-west-1:111122223333:function:quiesce-prod:live",
	} {
		require.Equal(t, want, (&reader{options: &options{function: given}}).functionName("prod"))
	}
}

// A role for poolers may be bound in their namespaces only. A pooler that no phase takes is evicted like any other pod.
func TestEscortNamespaces_WithConfiguration_ThoseThatPhasesTake(t *testing.T) {
	pod := func(namespace string, labels map[string]string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "a", Labels: labels}}
	}
	known, own := map[string]string{"app.kubernetes.io/name": "pgbouncer"}, map[string]string{"app": "our-pooler"}
	r := &reader{snapshot: doctor.Snapshot{Pods: []corev1.Pod{pod("db", known), pod("legacy", known), pod("own", own), pod("web", nil)}}}
	require.Equal(t, []string{"db", "legacy"}, r.escortNamespaces())
	settings, err := config.Parse([]byte("cluster: c\nautoScalingGroups: [g]\nmode: drain\nphases:\n"+
		"  - {name: poolers, match: {namespaces: [db]}, escort: {pgbouncer: {}}}\n"+
		"  - {name: ours, match: {labelSelector: app=our-pooler}, escort: {pgbouncer: {}}}\n  - name: workloads\n"), func(string) string { return "" })
	require.NoError(t, err)
	r.snapshot.Config, r.snapshot.Configured = settings, true
	require.Equal(t, []string{"db", "own"}, r.escortNamespaces())
}

// Another cluster's function could have that name.
func TestFunctionName_NotOfOneCluster_MustBeNamed(t *testing.T) {
	require.Empty(t, (&reader{options: &options{}}).functionName("prod_eu"))
	_, _, err := (&options{cluster: "prod_eu"}).functionName()
	require.ErrorContains(t, err, "another cluster could have it too: name it with --function")
	name, _, err := (&options{cluster: "prod_eu", function: "mine"}).functionName()
	require.NoError(t, err)
	require.Equal(t, "mine:live", name)
}
