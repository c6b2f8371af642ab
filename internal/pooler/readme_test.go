package pooler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"

	"quiesce/internal/config"
	"quiesce/internal/drain"
	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
	parts "quiesce/test/parts/pgbouncer"
)

// readmeVersions are the versions that the first line of a manifest in README.md names: the oldest and the newest one of each.
var readmeVersions = map[string][]pgbouncer.Version{
	"# pgbouncer 1.18 to 1.22":   {{Major: 1, Minor: 18}, {Major: 1, Minor: 22, Patch: 1}},
	"# pgbouncer 1.23 and later": {{Major: 1, Minor: 23}, {Major: 1, Minor: 25}},
}

var fencedBlock = regexp.MustCompile("(?ms)^```\\w*\n(.*?)^```")

// readmeManifests returns the blocks of README.md that have a Deployment, by their first line.
func readmeManifests(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	manifests := map[string]string{}
	for _, block := range fencedBlock.FindAllSubmatch(page, -1) {
		text := string(block[1])
		if strings.Contains(text, "kind: Deployment") {
			title, _, _ := strings.Cut(text, "\n")
			require.Contains(t, readmeVersions, title, "a manifest's first line names its versions")
			manifests[title] = text
		}
	}
	require.Len(t, manifests, len(readmeVersions), "README.md recommends one manifest for each generation")
	return manifests
}

// adviceOn returns the input of advice on a manifest's pods, with the default settings.
func adviceOn(t *testing.T, manifest string) adviceInput {
	t.Helper()
	a := adviceInput{Settings: Settings{PGBouncer: config.PGBouncer{Strategy: config.StrategyAuto, Timeout: minute, Console: config.Console{TLS: config.TLSVerifyFull}}}}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		var raw runtime.RawExtension
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return a
		} else {
			require.NoError(t, err)
		}
		switch {
		case bytes.Contains(raw.Raw, []byte(`"kind":"Deployment"`)):
			var deployment appsv1.Deployment
			require.NoError(t, yaml.UnmarshalStrict(raw.Raw, &deployment))
			a.pod = podOf(t, deployment)
			a.selectors.Replicas = int(*deployment.Spec.Replicas)
			a.selectors.Owner = &escort.Selector{Labels: deployment.Spec.Selector.MatchLabels}
		case bytes.Contains(raw.Raw, []byte(`"kind":"PodDisruptionBudget"`)):
			var pdb policyv1.PodDisruptionBudget
			require.NoError(t, yaml.UnmarshalStrict(raw.Raw, &pdb))
			require.Equal(t, new(intstr.FromInt32(1)), pdb.Spec.MaxUnavailable, "it always allows an eviction")
			a.selectors.PDBs = append(a.selectors.PDBs, escort.PDB{Selector: escort.Selector{Labels: pdb.Spec.Selector.MatchLabels}})
		}
	}
}

// podOf returns a pod of the Deployment. Probes and HTTP hooks are not read: the manifests have none that matter.
func podOf(t *testing.T, deployment appsv1.Deployment) escort.Pod {
	t.Helper()
	template := deployment.Spec.Template
	pod := escort.Pod{
		Pod:   drain.Pod{Ref: drain.Ref{Namespace: deployment.Namespace}, Labels: template.Labels},
		Owner: escort.Owner{Kind: "ReplicaSet"},
	}
	pod.Grace = time.Duration(*template.Spec.TerminationGracePeriodSeconds) * time.Second
	for _, c := range template.Spec.Containers {
		require.Nil(t, c.LivenessProbe)
		container := escort.Container{Name: c.Name, Image: c.Image, PreStop: preStopOf(t, c)}
		for _, port := range c.Ports {
			container.Ports = append(container.Ports, escort.Port{Name: port.Name, Number: int(port.ContainerPort)})
		}
		pod.Containers = append(pod.Containers, container)
	}
	return pod
}

func preStopOf(t *testing.T, c corev1.Container) []string {
	t.Helper()
	switch {
	case c.Lifecycle == nil || c.Lifecycle.PreStop == nil:
		return nil
	case c.Lifecycle.PreStop.Sleep != nil:
		return []string{"sleep", fmt.Sprint(c.Lifecycle.PreStop.Sleep.Seconds)}
	default:
		require.NotNil(t, c.Lifecycle.PreStop.Exec)
		return c.Lifecycle.PreStop.Exec.Command
	}
}

func TestReadme_RecommendedManifests_DrawNoWarning(t *testing.T) {
	for title, manifest := range readmeManifests(t) {
		for _, version := range readmeVersions[title] {
			a := adviceOn(t, manifest)
			a.probe = probe{version: &version, modes: []string{"transaction"}}
			require.Empty(t, advise(a), "%s: %v", title, version)
		}
	}
}

// An impostor can relay a login whose server is not identified.
func TestReadme_SamplesWithALogin_VerifyTheServer(t *testing.T) {
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	logins := 0
	for _, block := range fencedBlock.FindAllString(strings.ReplaceAll(string(page), "\n   ", "\n"), -1) {
		if strings.Contains(block, "secretRef:") || strings.Contains(block, "secretArn:") {
			require.Contains(t, block, "tls: verify-full\n")
			logins++
		}
	}
	require.Positive(t, logins)
}

// A warning that names a hook names the one that README.md recommends.
func TestReadme_RecommendedHooks_AreThoseOfTheWarnings(t *testing.T) {
	hooks := map[string]string{"# pgbouncer 1.18 to 1.22": hookBefore1_23, "# pgbouncer 1.23 and later": hookFrom1_23}
	for title, manifest := range readmeManifests(t) {
		pod := adviceOn(t, manifest).pod
		require.Equal(t, []string{"sh", "-c", hooks[title]}, poolerOf(pod).PreStop, title)
	}
}

// The kubelet sends no SIGTERM to a pod whose hook waits: the hook's SIGINT comes first, and pgbouncer exits on it.
func TestEvict_RecommendedHook_AbortsNothing(t *testing.T) {
	t.Parallel()
	for version, hook := range map[string]string{"1.18": hookBefore1_23, "1.24": hookFrom1_23} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := parts.Start(t, version, parts.Options{})
			w, busy := newCluster(p), work(t, p, parts.Start(t, version, parts.Options{}))
			w.pod.Grace = 90 * time.Second
			w.pod.Containers = []escort.Container{{Name: "pgbouncer", PreStop: []string{"sh", "-c", hook}}}
			w.hookTime, w.signal = readPreStop(w.pod.Containers[0].PreStop).delay, syscall.SIGINT
			result, err := w.escort(minute).Run(t.Context(), w.request(t))
			require.NoError(t, err)
			within(t, p.Ended())
			busy.requireNothingAborted(t)
			require.Equal(t, "evict", result.Strategy)
			require.Empty(t, result.AbortedDetail)
		})
	}
}

// A rollout and kubectl drain terminate the pod without an escort.
func TestRecommendedHook_NoEscort_AbortsNothing(t *testing.T) {
	t.Parallel()
	eachGeneration(t, parts.Options{}, func(t *testing.T, drained, other *parts.Pooler) {
		w, busy := newCluster(drained), work(t, drained, other)
		w.signal = syscall.SIGINT
		w.terminate(t)
		within(t, drained.Ended())
		busy.requireNothingAborted(t)
	})
}
