package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/escort"
)

const (
	// cnpgSwitchover is the phase of a cluster whose primary changes
	// (https://github.com/cloudnative-pg/cloudnative-pg/blob/v1.30.0/api/v1/cluster_types.go).
	cnpgSwitchover = "Switchover in progress"
	// primaryTimeout bounds the request, for which clients wait. The API server answers a patch in milliseconds.
	primaryTimeout = 5 * time.Second
)

var errNoPrimary = errors.New("not a request for another primary")

// primaryStatus is what a request writes of a Cluster's status. Nothing else of the Cluster is ever written.
type primaryStatus struct {
	TargetPrimary          string `json:"targetPrimary"`
	TargetPrimaryTimestamp string `json:"targetPrimaryTimestamp"`
	Phase                  string `json:"phase"`
	PhaseReason            string `json:"phaseReason"`
}

// RequestPrimary asks CloudNativePG for another primary, in the status of the Cluster, and returns the Cluster's new resourceVersion. It
// fails with escort.ErrConflict if the Cluster is not as it was read.
func (c *Client) RequestPrimary(ctx context.Context, p escort.NewPrimary) (version string, err error) {
	if !isName(p.Namespace) || !isName(p.Cluster) || !isName(p.Candidate) || p.Version == "" || p.At.IsZero() {
		return "", fmt.Errorf("request a primary of %.100s: %w", p.Cluster, errNoPrimary)
	}
	body, err := json.Marshal(struct {
		Metadata failoverMetadata `json:"metadata"`
		Status   primaryStatus    `json:"status"`
	}{
		failoverMetadata{ResourceVersion: p.Version},
		primaryStatus{p.Candidate, p.At.UTC().Format(metav1.RFC3339Micro), cnpgSwitchover, "Switching over to " + p.Candidate},
	})
	if err != nil {
		return "", err
	}
	version, err = versionOf(c.core.Patch(types.MergePatchType).
		AbsPath("/apis/postgresql.cnpg.io/v1", "namespaces", p.Namespace, "clusters", p.Cluster, "status").
		SetHeader("Accept", "application/json").Body(body).MaxRetries(0).Timeout(primaryTimeout).WarningHandler(rest.NoWarnings{}).Do(ctx))
	switch {
	case apierrors.IsConflict(err):
		err = fmt.Errorf("%w: %w", escort.ErrConflict, bounded(err))
	case err != nil:
		err = withPermission(err)
	}
	if err != nil {
		return "", fmt.Errorf("request primary %s of Cluster %s/%s: %w", p.Candidate, p.Namespace, p.Cluster, err)
	}
	return version, nil
}
