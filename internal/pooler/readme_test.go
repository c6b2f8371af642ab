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

// recommended is the manifest that README.md recommends, from this folder, and recommendedFor are versions that it is for.
const recommended = "../../infra/prestop/pgbouncer.yaml"

var recommendedFor = []pgbouncer.Version{{Major: 1, Minor: 18}, {Major: 1, Minor: 22, Patch: 1}, {Major: 1, Minor: 23}, {Major: 1, Minor: 25}}

var fencedBlock = regexp.MustCompile("(?ms)^```\\w*\n(.*?)^```")

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
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

func TestReadme_RecommendedManifest_DrawsNoWarning(t *testing.T) {
	page, manifest := readText(t, "README.md"), readText(t, recommended)
	require.Contains(t, page, "]("+recommended+")")
	hook := regexp.MustCompile(`preStop: .*`).FindString(manifest)
	require.Contains(t, page, hook)
	const longer = "--quiet-for=15s"
	require.Contains(t, page, "`"+longer+"`")
	for _, text := range []string{manifest, strings.Replace(manifest, "--grace=90]", "--grace=90, "+longer+"]", 1)} {
		a := adviceOn(t, text)
		require.GreaterOrEqual(t, readPreStop(poolerOf(a.pod).PreStop).delay, minUsefulDelay)
		for _, version := range recommendedFor {
			a.probe = probe{version: &version, modes: []string{"transaction"}}
			require.Empty(t, advise(a), version)
		}
	}
}

// An impostor can relay a login whose server is not identified.
func TestReadme_SamplesWithALogin_VerifyTheServer(t *testing.T) {
	logins := 0
	for _, block := range fencedBlock.FindAllString(strings.ReplaceAll(readText(t, "README.md"), "\n   ", "\n"), -1) {
		if strings.Contains(block, "secretRef:") || strings.Contains(block, "secretArn:") {
			require.Contains(t, block, "tls: verify-full\n")
			logins++
		}
	}
	require.Positive(t, logins)
}

// A warning that names a hook names one of README.md.
func TestReadme_Hooks_AreThoseOfTheWarnings(t *testing.T) {
	page := readText(t, "README.md")
	for versions, hook := range map[string]string{"1.18 to 1.22": hookBefore1_23, "1.23 and later": hookFrom1_23} {
		require.Contains(t, page, "| "+versions+" | `sh -c '"+hook+"'` |")
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
