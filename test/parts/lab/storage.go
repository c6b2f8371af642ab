package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quiesce/test/parts/csi"
)

// kubeletFolder is the folder of a machine's kubelet, as the machine sees it. machine.sh mounts it.
const kubeletFolder = "/var/lib/kubelet"

// startStorage starts the storage driver and external-attacher, which asks it to attach and detach what kube-controller-manager wants.
func (l *Lab) startStorage(ctx context.Context) error {
	if !l.options.Storage {
		return nil
	}
	folder := l.Path("volumes")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	l.storage = csi.New(folder, l.runInside)
	socket := l.Path("csi.sock")
	if err := l.addStop(l.storage.ServeController(socket)); err != nil {
		return err
	}
	required := true
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: csi.Name}, Spec: storagev1.CSIDriverSpec{AttachRequired: &required}}
	if _, err := l.client.StorageV1().CSIDrivers().Create(ctx, driver, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("register the storage driver: %w", err)
	}
	args := []string{"--kubeconfig=" + l.kubeconfig(controllersUser), "--csi-address=" + socket, "--kube-api-qps=100", "--kube-api-burst=100"}
	return l.run(ctx, "csi-attacher", args, nil, func(context.Context) error { return nil })
}

// serveVolumes lets a machine that starts mount volumes.
func (l *Lab) serveVolumes(m *machine) error {
	if l.storage == nil {
		return nil
	}
	return l.addStop(l.storage.ServeNode(m.node.Name, m.path("lib/kubelet"), kubeletFolder))
}

// VolumeDetached returns when the storage driver detached a volume from a node; zero if it has not.
func (l *Lab) VolumeDetached(volume, node string) time.Time { return l.storage.Detached(volume, node) }

func (l *Lab) addStop(stop func(), err error) error {
	if err != nil {
		return err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.stopStorage = append(l.stopStorage, stop)
	return nil
}

// runInside runs a command inside a machine.
func (l *Lab) runInside(ctx context.Context, node string, command ...string) error {
	cmd, err := l.Inside(ctx, node, command...)
	if err != nil {
		return err
	}
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

// endStorage stops the storage driver. It fails if a volume was detached while it was mounted.
func (l *Lab) endStorage() (err error) {
	for _, stop := range l.stopStorage {
		stop()
	}
	if l.storage != nil {
		for _, early := range l.storage.Early() {
			err = errors.Join(err, errors.New(early))
		}
	}
	return err
}
