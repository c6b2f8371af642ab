package lab

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"text/template"

	"k8s.io/client-go/rest"
)

//go:embed config/kubeconfig.yaml
var kubeconfigYAML string

var kubeconfigTemplate = template.Must(template.New("kubeconfig").Parse(kubeconfigYAML))

// kubeconfig returns the path of a user's kubeconfig file.
func (l *Lab) kubeconfig(u user) string {
	return l.Path(strings.ReplaceAll(u.Name, ":", "-") + ".kubeconfig")
}

func (l *Lab) writeKubeconfig(u user) error {
	return l.writeKubeconfigTo(l.kubeconfig(u), u)
}

func (l *Lab) writeKubeconfigTo(path string, u user) error {
	id, err := l.pki.client(u)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make a kubeconfig: %w", err)
	}
	defer file.Close()
	err = kubeconfigTemplate.Execute(file, map[string]string{
		"User":        u.Name,
		"Server":      l.Endpoint(),
		"CA":          base64.StdEncoding.EncodeToString(l.CA()),
		"Certificate": base64.StdEncoding.EncodeToString(id.certificatePEM),
		"Key":         base64.StdEncoding.EncodeToString(id.keyPEM),
	})
	if err != nil {
		return fmt.Errorf("write a kubeconfig: %w", err)
	}
	return nil
}

// restConfig returns the configuration of a client without client-side throttling.
func (l *Lab) restConfig(u user) (*rest.Config, error) {
	id, err := l.pki.client(u)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            l.Endpoint(),
		TLSClientConfig: rest.TLSClientConfig{CAData: l.CA(), CertData: id.certificatePEM, KeyData: id.keyPEM},
		QPS:             -1,
		WarningHandler:  rest.NoWarnings{}, // of kinds that are deprecated: what is tested uses them
	}, nil
}
