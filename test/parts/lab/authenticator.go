package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// authenticatorConfig is the configuration of aws-iam-authenticator's server
// (https://github.com/kubernetes-sigs/aws-iam-authenticator#full-configuration-format), as JSON.
type authenticatorConfig struct {
	ClusterID string              `json:"clusterID"`
	Server    authenticatorServer `json:"server"`
}

type authenticatorServer struct {
	Hostname string        `json:"hostname"`
	MapRoles []roleMapping `json:"mapRoles"`
}

type roleMapping struct {
	RoleARN  string   `json:"roleARN"`
	Username string   `json:"username"`
	Groups   []string `json:"groups"`
}

// startAuthenticator starts the IAM authenticator if there is an STS for it. It reads its certificate from its state folder, and
// writes the API server's webhook configuration before it listens.
func (l *Lab) startAuthenticator(ctx context.Context) error {
	if l.options.STSProxy == "" {
		return nil
	}
	if err := l.writeAuthenticatorState(); err != nil {
		return fmt.Errorf("prepare the IAM authenticator: %w", err)
	}
	args := []string{
		"server",
		"--config=" + l.Path("authenticator/config.json"),
		"--state-dir=" + l.Path("authenticator"),
		"--generate-kubeconfig=" + l.Path("authenticator/webhook.kubeconfig"),
		"--address=127.0.0.1",
		"--port=" + strconv.Itoa(l.ports.authenticator),
	}
	environment := []string{
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_REGION=" + l.options.Region,
		"HTTPS_PROXY=" + l.options.STSProxy,
		"SSL_CERT_FILE=" + l.options.STSCAFile,
	}
	ready := l.answers(url("https", l.ports.authenticator) + "/healthz")
	return l.run(ctx, "aws-iam-authenticator", args, environment, ready)
}

func (l *Lab) writeAuthenticatorState() error {
	config := authenticatorConfig{
		ClusterID: l.options.ClusterName,
		Server:    authenticatorServer{Hostname: "127.0.0.1"},
	}
	for _, r := range l.options.Roles {
		config.Server.MapRoles = append(config.Server.MapRoles, roleMapping{r.ARN, r.Username, r.Groups})
	}
	content, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode its configuration: %w", err)
	}
	return errors.Join(
		os.Mkdir(l.Path("authenticator"), 0o700),
		os.WriteFile(l.Path("authenticator/config.json"), content, 0o600),
		os.WriteFile(l.Path("authenticator/cert.pem"), l.pki.server.certificatePEM, 0o600),
		os.WriteFile(l.Path("authenticator/key.pem"), l.pki.server.keyPEM, 0o600),
	)
}

// tokenWebhook returns the flags that make the API server ask the authenticator about bearer tokens.
func (l *Lab) tokenWebhook() []string {
	if l.options.STSProxy == "" {
		return nil
	}
	return []string{
		"--authentication-token-webhook-config-file=" + l.Path("authenticator/webhook.kubeconfig"),
		"--authentication-token-webhook-cache-ttl=" + tokenCacheTTL.String(),
	}
}
