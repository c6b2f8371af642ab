package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"quiesce/internal/escort"
)

// failoverSuffix ends the names of the only objects of Patroni that are ever written
// (https://github.com/patroni/patroni/blob/master/patroni/dcs/kubernetes.py).
const failoverSuffix = "-failover"

var errNoFailover = errors.New("not a request for a switchover")

// RequestSwitchover writes a request into Patroni's failover object, and returns the object's new resourceVersion. It fails with a conflict
// if the object is not as it was read. It always names leader and candidate: a candidate alone would be a failover, which Patroni performs
// without its checks. An object that does not exist is created: kube-controller-manager deletes Endpoints without a Service when it starts.
func (c *Client) RequestSwitchover(ctx context.Context, f escort.Failover) (version string, err error) {
	if !isFailover(f) || !isName(f.Leader) || !isName(f.Candidate) || f.At.IsZero() {
		return "", fmt.Errorf("request a switchover in %.100s: %w", f.Name, errNoFailover)
	}
	annotations := map[string]*string{"leader": &f.Leader, "member": &f.Candidate, "scheduled_at": scheduled(f.At)}
	if f.Version == "" {
		version, err = c.createFailover(ctx, f, annotations)
	} else {
		version, err = c.patchFailover(ctx, f, f.Version, annotations)
	}
	if err != nil {
		return "", fmt.Errorf("request a switchover in %s %s/%s: %w", f.Kind, f.Namespace, f.Name, withPermission(err))
	}
	return version, nil
}

// WithdrawSwitchover removes the request, if the object still has the resourceVersion. It is no error if the object is gone.
func (c *Client) WithdrawSwitchover(ctx context.Context, f escort.Failover, version string) error {
	if !isFailover(f) || version == "" {
		return fmt.Errorf("withdraw a switchover from %.100s: %w", f.Name, errNoFailover)
	}
	_, err := c.patchFailover(ctx, f, version, map[string]*string{"leader": nil, "member": nil, "scheduled_at": nil})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("withdraw a switchover from %s %s/%s: %w", f.Kind, f.Namespace, f.Name, withPermission(err))
	}
	return nil
}

func isFailover(f escort.Failover) bool {
	return slices.Contains(annotatedKinds, f.Kind) && isName(f.Namespace) && isName(f.Name) && strings.HasSuffix(f.Name, failoverSuffix)
}

// scheduled returns a time as Patroni reads it: ISO 8601, with a time zone.
func scheduled(at time.Time) *string {
	text := at.UTC().Format("2006-01-02T15:04:05.000000-07:00")
	return &text
}

// failoverObject is what is read and written of the object. It has no subsets and no data.
type failoverObject struct {
	APIVersion string           `json:"apiVersion,omitempty"`
	Kind       string           `json:"kind,omitempty"`
	Metadata   failoverMetadata `json:"metadata"`
}

type failoverMetadata struct {
	Name            string             `json:"name,omitempty"`
	ResourceVersion string             `json:"resourceVersion,omitempty"`
	Labels          map[string]string  `json:"labels,omitempty"`
	Annotations     map[string]*string `json:"annotations,omitempty"`
}

func (c *Client) createFailover(ctx context.Context, f escort.Failover, annotations map[string]*string) (string, error) {
	kind := "Endpoints"
	if f.Kind == "configmaps" {
		kind = "ConfigMap"
	}
	object := failoverObject{APIVersion: "v1", Kind: kind, Metadata: failoverMetadata{Name: f.Name, Labels: f.Labels, Annotations: annotations}}
	body, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	return versionOf(c.core.Post().AbsPath("/api/v1", "namespaces", f.Namespace, f.Kind).SetHeader("Content-Type", "application/json").
		SetHeader("Accept", "application/json").Body(body).MaxRetries(0).Timeout(callTimeout).WarningHandler(rest.NoWarnings{}).Do(ctx))
}

// patchFailover changes annotations of the object of this resourceVersion. A null removes one.
func (c *Client) patchFailover(ctx context.Context, f escort.Failover, version string, annotations map[string]*string) (string, error) {
	body, err := json.Marshal(failoverObject{Metadata: failoverMetadata{ResourceVersion: version, Annotations: annotations}})
	if err != nil {
		return "", err
	}
	return versionOf(c.core.Patch(types.MergePatchType).AbsPath("/api/v1", "namespaces", f.Namespace, f.Kind, f.Name).
		SetHeader("Accept", "application/json").Body(body).MaxRetries(0).Timeout(callTimeout).WarningHandler(rest.NoWarnings{}).Do(ctx))
}

// versionOf returns the resourceVersion of the object that was answered. The error is that of Error: it has the server's own words, which
// the error of Raw lacks.
func versionOf(result rest.Result) (string, error) {
	if err := result.Error(); err != nil {
		return "", err
	}
	body, err := result.Raw()
	if err != nil {
		return "", err
	}
	var object failoverObject
	if err := json.Unmarshal(body, &object); err != nil {
		return "", err
	}
	return object.Metadata.ResourceVersion, nil
}
