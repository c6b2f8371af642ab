package rotate

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
)

// fileOf returns where the pod's containers have a key of a Secret, or why they would not see it change. Nothing is mounted: both are empty.
func fileOf(p *corev1.Pod, secret, key string) (file, why string) {
	for _, v := range p.Spec.Volumes {
		inVolume, has := pathIn(v, secret, key)
		if !has {
			continue
		}
		if inVolume == "" {
			return "", fmt.Sprintf("its volume %s has no key %s of the Secret: add it to the volume's items", v.Name, key)
		}
		for _, c := range p.Spec.Containers {
			for _, m := range c.VolumeMounts {
				if m.Name != v.Name {
					continue
				}
				if m.SubPath != "" || m.SubPathExpr != "" {
					return "", fmt.Sprintf("container %s mounts the userlist with subPath, and the kubelet never changes such a file: mount the volume as a folder", c.Name)
				}
				return path.Join(m.MountPath, inVolume), ""
			}
		}
		return "", "only an init container mounts the userlist, so the copy that pgbouncer reads never changes: mount the Secret in pgbouncer's container"
	}
	if inEnvironment(p, secret) {
		return "", "the userlist comes from environment variables, which never change in a running pod: mount the Secret as a folder"
	}
	return "", ""
}

// pathIn returns where in a volume the key is, and whether the volume has the Secret.
func pathIn(v corev1.Volume, secret, key string) (inVolume string, has bool) {
	if v.Secret != nil && v.Secret.SecretName == secret {
		return item(v.Secret.Items, key), true
	}
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.Secret != nil && s.Secret.Name == secret {
				return item(s.Secret.Items, key), true
			}
		}
	}
	return "", false
}

// item returns the file of a key. Without items, each key is a file.
func item(items []corev1.KeyToPath, key string) string {
	for _, i := range items {
		if i.Key == key {
			return i.Path
		}
	}
	if len(items) > 0 {
		return ""
	}
	return key
}

func inEnvironment(p *corev1.Pod, secret string) bool {
	for _, c := range p.Spec.Containers {
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil && from.SecretRef.Name == secret {
				return true
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name == secret {
				return true
			}
		}
	}
	return false
}
