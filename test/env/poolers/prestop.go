package poolers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"quiesce/test/env"
	"quiesce/test/env/database"
	"quiesce/test/parts/images"
	"quiesce/test/parts/lab"
)

// VersionLabel tells the poolers of Examples apart.
const VersionLabel = "version"

// replicasOfExample are the poolers that infra/prestop/pgbouncer.yaml has.
const replicasOfExample = 2

// Examples deploys the example of infra/prestop once per version of pgbouncer, side by side behind one Service.
type Examples struct {
	Versions []string
	db       *database.Database
}

// Deploy deploys a database, and the examples in place of its usual poolers.
func (e *Examples) Deploy(ctx context.Context, l *lab.Lab, o database.Options) (*database.Database, error) {
	o.Version, o.Poolers, o.Grace = e.Versions[0], 1, 1
	db, err := database.Deploy(ctx, l, o)
	if err != nil {
		return nil, err
	}
	e.db = db
	for _, kind := range []string{"deployment", "poddisruptionbudget"} {
		if _, err := l.Kubectl(ctx, "--namespace", o.Namespace, "delete", kind, "pgbouncer"); err != nil {
			return nil, fmt.Errorf("remove the usual poolers: %w", err)
		}
	}
	deployment, pdb, err := readExample()
	if err != nil {
		return nil, fmt.Errorf("read the example: %w", err)
	}
	volumes, err := canMountImages(ctx, l, o.Group)
	if err != nil {
		return nil, err
	}
	for i, version := range e.Versions {
		d := adapt(deployment.DeepCopy(), o, version)
		if volumes && i > 0 {
			mountImage(d)
		}
		if err := create(ctx, l, d, pdb.DeepCopy()); err != nil {
			return nil, fmt.Errorf("deploy the example: %w", err)
		}
	}
	_, err = e.AwaitReady(ctx, l)
	return db, err
}

// create creates a Deployment with its PDB. The API server must accept the program's image as a volume too, even if no node can mount it.
func create(ctx context.Context, l *lab.Lab, d *appsv1.Deployment, pdb *policyv1.PodDisruptionBudget) error {
	pdb.ObjectMeta, pdb.Spec.Selector = d.ObjectMeta, d.Spec.Selector
	mounted := d.DeepCopy()
	mountImage(mounted)
	deployments := l.Client().AppsV1().Deployments(d.Namespace)
	_, mountErr := deployments.Create(ctx, mounted, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	_, err := deployments.Create(ctx, d, metav1.CreateOptions{})
	_, pdbErr := l.Client().PolicyV1().PodDisruptionBudgets(d.Namespace).Create(ctx, pdb, metav1.CreateOptions{})
	return errors.Join(mountErr, err, pdbErr)
}

// AwaitReady waits until all poolers are ready, and returns them.
func (e *Examples) AwaitReady(ctx context.Context, l *lab.Lab) ([]corev1.Pod, error) {
	return database.AwaitReady(ctx, l, e.db.Namespace, database.PoolerLabels, replicasOfExample*len(e.Versions))
}

// NodeOfAll returns the name of a node that has a pooler of each version. With two poolers per version on three nodes, there is one.
func (e *Examples) NodeOfAll(ctx context.Context) (string, error) {
	pods, err := e.db.PoolerPods(ctx)
	if err != nil {
		return "", err
	}
	count := map[string]int{}
	for _, p := range pods {
		if p.DeletionTimestamp != nil || !database.IsReady(p) {
			continue
		}
		if count[p.Spec.NodeName]++; count[p.Spec.NodeName] == len(e.Versions) {
			return p.Spec.NodeName, nil
		}
	}
	return "", fmt.Errorf("no node has a pooler of each version: %s", database.Describe(pods))
}

// readExample reads the manifest that users are given.
func readExample() (d appsv1.Deployment, pdb policyv1.PodDisruptionBudget, err error) {
	root, err := env.Root()
	if err != nil {
		return d, pdb, err
	}
	file, err := os.Open(filepath.Join(root, "infra", "prestop", "pgbouncer.yaml"))
	if err != nil {
		return d, pdb, err
	}
	defer file.Close()
	for documents := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		var raw runtime.RawExtension
		if err := documents.Decode(&raw); errors.Is(err, io.EOF) {
			return d, pdb, nil
		} else if err != nil {
			return d, pdb, err
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(raw.Raw, &kind); err != nil {
			return d, pdb, err
		}
		switch kind.Kind {
		case "Deployment":
			err = yaml.UnmarshalStrict(raw.Raw, &d)
		case "PodDisruptionBudget":
			err = yaml.UnmarshalStrict(raw.Raw, &pdb)
		}
		if err != nil {
			return d, pdb, err
		}
	}
}

// adapt gives the example the names of the lab, and nothing else. Poolers of one version avoid each other only.
func adapt(d *appsv1.Deployment, o database.Options, version string) *appsv1.Deployment {
	d.ObjectMeta = metav1.ObjectMeta{Name: "pgbouncer-" + strings.ReplaceAll(version, ".", "-"), Namespace: o.Namespace}
	pods := &d.Spec.Template
	pods.Labels[VersionLabel] = version
	d.Spec.Selector.MatchLabels[VersionLabel] = version
	pods.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector = d.Spec.Selector
	pods.Spec.NodeSelector = map[string]string{"group": o.Group}
	pods.Spec.InitContainers[0].Image = images.ProgramRef("prestop")
	pods.Spec.InitContainers[0].ImagePullPolicy = corev1.PullNever
	pods.Spec.Containers[0].Image = "localhost/pgbouncer:" + version
	pods.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	return d
}

// mountImage gives the pods the program in the other way of README.md: its image is a volume.
func mountImage(d *appsv1.Deployment) {
	pods := &d.Spec.Template.Spec
	pods.InitContainers = nil
	for i := range pods.Volumes {
		if pods.Volumes[i].Name == "prestop" {
			pods.Volumes[i].VolumeSource = corev1.VolumeSource{
				Image: &corev1.ImageVolumeSource{Reference: images.ProgramRef("prestop"), PullPolicy: corev1.PullNever},
			}
		}
	}
}

// canMountImages reports whether the runtime of a group's nodes mounts images as volumes: containerd from 2.1 on
// (https://github.com/containerd/containerd/releases/tag/v2.1.0).
func canMountImages(ctx context.Context, l *lab.Lab, group string) (bool, error) {
	nodes, err := l.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "group=" + group, Limit: 1})
	if err != nil || len(nodes.Items) == 0 {
		return false, fmt.Errorf("find the version of containerd: %d nodes: %w", len(nodes.Items), err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(nodes.Items[0].Status.NodeInfo.ContainerRuntimeVersion, "containerd://%d.%d", &major, &minor); err != nil {
		return false, nil // built without a version
	}
	return major > 2 || major == 2 && minor >= 1, nil
}
