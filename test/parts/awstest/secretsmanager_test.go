package awstest_test

import (
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"quiesce/test/parts/awstest"
)

// secretText reads one version of a secret with the SDK's client.
func secretText(t *testing.T, cfg aws.Config, id, stage string) (string, error) {
	t.Helper()
	in := &secretsmanager.GetSecretValueInput{SecretId: &id}
	if stage != "" {
		in.VersionStage = &stage
	}
	out, err := secretsmanager.NewFromConfig(cfg).GetSecretValue(t.Context(), in)
	if err != nil {
		return "", err
	}
	require.NotEmpty(t, *out.VersionId)
	return *out.SecretString, nil
}

func requireSecret(t *testing.T, cfg aws.Config, id, stage, text string) {
	t.Helper()
	got, err := secretText(t, cfg, id, stage)
	require.NoError(t, err)
	require.Equal(t, text, got)
}

func TestSecret_NameOrARNAndStage_Read(t *testing.T) {
	s := start(t)
	arn := s.AddSecret("console", map[string]string{awstest.StageCurrent: "blue", awstest.StagePending: "green"})
	require.Equal(t, "arn:aws:secretsmanager:eu-west-1:111122223333:secret:console-a1b2c3", arn)
	cfg := config(s)
	requireSecret(t, cfg, "console", "", "blue")
	requireSecret(t, cfg, arn, awstest.StageCurrent, "blue")
	requireSecret(t, cfg, arn, awstest.StagePending, "green")
	require.Equal(t, arn, s.AddSecret(arn, map[string]string{awstest.StageCurrent: "red"}))
	requireSecret(t, cfg, "console", "", "red")
}

func TestSecret_Rotated_StagesMove(t *testing.T) {
	s := start(t)
	s.AddSecret("console", map[string]string{awstest.StageCurrent: "blue", awstest.StagePending: "green"})
	s.RotateSecret("console")
	cfg := config(s)
	requireSecret(t, cfg, "console", awstest.StageCurrent, "green")
	requireSecret(t, cfg, "console", awstest.StagePrevious, "blue")
	_, err := secretText(t, cfg, "console", awstest.StagePending)
	requireCode(t, err, "ResourceNotFoundException")
	require.ErrorContains(t, err, "staging label: AWSPENDING")
}

func TestSecret_UnknownOrWrongSignature_Refused(t *testing.T) {
	s := start(t)
	_, err := secretText(t, config(s), "console", "")
	requireCode(t, err, "ResourceNotFoundException")
	s.AddSecret("console", map[string]string{awstest.StageCurrent: "blue"})
	sess := s.Session("fn")
	sess.SecretAccessKey += "x"
	_, err = secretText(t, configOf(s, sess), "console", "")
	requireCode(t, err, "SignatureDoesNotMatch")
}

func TestSecret_Calls_RecordedAndFailedOnDemand(t *testing.T) {
	s := start(t)
	s.AddSecret("console", map[string]string{awstest.StageCurrent: "blue"})
	sess := s.Session("fn")
	s.Fail("secretsmanager", "GetSecretValue", awstest.Fault{
		Times: 1, Code: http.StatusBadRequest, ErrorCode: "AccessDeniedException", Message: "not authorized",
	})
	_, err := secretText(t, configOf(s, sess), "console", "")
	requireCode(t, err, "AccessDeniedException")
	requireSecret(t, configOf(s, sess), "console", "", "blue")
	calls := s.CallsOf(sess)
	require.Len(t, calls, 2)
	require.Equal(t, "secretsmanager GetSecretValue", calls[1].Service+" "+calls[1].Action)
	require.Equal(t, "console", calls[1].Params.Get("SecretId"))
}
