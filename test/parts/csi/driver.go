// Package csi is a storage driver for nodes that run containers (https://github.com/container-storage-interface/spec). Kubernetes uses it as
// it uses the driver of EBS: kube-controller-manager decides when a volume is attached and detached, external-attacher asks the driver to
// do so, and kubelets mount and unmount.
//
// A volume is a folder of this host. It is attached to one node at a time, and a node without it cannot mount it.
package csi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Name is the driver's name. It is that of EBS, so that the function sees what it sees on EKS.
const Name = "ebs.csi.aws.com"

// Run runs a command on a node, in its mount namespace.
type Run func(ctx context.Context, node string, command ...string) error

// Driver is the state of all volumes. Its methods may be called at once.
type Driver struct {
	folder string // has a folder for each volume
	run    Run

	mutex    sync.Mutex
	attached map[string]string    // node by volume
	detached map[string]time.Time // the first detachment since the last attachment, by node and volume
	mounted  map[string][]string  // paths by node and volume
	early    []string             // detachments of volumes that were mounted
}

// New returns a driver without volumes, which makes them in a folder.
func New(folder string, run Run) *Driver {
	return &Driver{
		folder: folder, run: run,
		attached: map[string]string{}, detached: map[string]time.Time{}, mounted: map[string][]string{},
	}
}

// Detached returns when the driver detached a volume from a node; zero if it has not. Only later does the API server say so: external-attacher
// hears of it first, and each watch then has its own delay.
func (d *Driver) Detached(volume, node string) time.Time {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.detached[mount(node, volume)]
}

// Early returns the detachments of volumes that a node had mounted, one text each. Each of them could have lost data.
func (d *Driver) Early() []string {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return slices.Clone(d.early)
}

// Forget forgets a node that is gone: nothing is mounted there any more. EC2 detaches the volumes of a terminated instance.
func (d *Driver) Forget(node string) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for volume, at := range d.attached {
		if at == node {
			delete(d.attached, volume)
			delete(d.mounted, mount(node, volume))
		}
	}
}

// attach attaches a volume to a node, and makes it if it is new. It is idempotent.
func (d *Driver) attach(volume, node string) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if at, is := d.attached[volume]; is && at != node {
		return status.Errorf(codes.FailedPrecondition, "volume %s is attached to node %s", volume, at)
	}
	if err := d.makeFolder(volume); err != nil {
		return status.Errorf(codes.Internal, "make volume %s: %v", volume, err)
	}
	d.attached[volume] = node
	delete(d.detached, mount(node, volume))
	return nil
}

// makeFolder makes the folder of a volume. Any user may write there: containers have users of their own.
func (d *Driver) makeFolder(volume string) error {
	path := d.path(volume)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o777) // whatever the umask
}

func (d *Driver) path(volume string) string { return filepath.Join(d.folder, filepath.Base(volume)) }

// detach detaches a volume from a node. It is idempotent.
func (d *Driver) detach(volume, node string) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if paths := d.mounted[mount(node, volume)]; len(paths) > 0 {
		d.early = append(d.early, fmt.Sprintf("volume %s was detached from node %s, which had it mounted at %v", volume, node, paths))
	}
	if d.attached[volume] == node {
		delete(d.attached, volume)
		d.detached[mount(node, volume)] = time.Now()
	}
}

// publish mounts a volume at a path of a node that has it. It is idempotent.
func (d *Driver) publish(ctx context.Context, volume, node, path string) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if at := d.attached[volume]; at != node {
		return status.Errorf(codes.FailedPrecondition, "volume %s is attached to node %q", volume, at)
	}
	key := mount(node, volume)
	if slices.Contains(d.mounted[key], path) {
		return nil
	}
	if err := d.run(ctx, node, "mkdir", "-p", path); err != nil {
		return status.Errorf(codes.Internal, "make a folder for volume %s: %v", volume, err)
	}
	if err := d.run(ctx, node, "mount", "--bind", d.path(volume), path); err != nil {
		return status.Errorf(codes.Internal, "mount volume %s: %v", volume, err)
	}
	d.mounted[key] = append(d.mounted[key], path)
	return nil
}

// unpublish unmounts a volume. It is idempotent.
func (d *Driver) unpublish(ctx context.Context, volume, node, path string) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	key := mount(node, volume)
	at := slices.Index(d.mounted[key], path)
	if at < 0 {
		return nil
	}
	if err := d.run(ctx, node, "umount", path); err != nil {
		return status.Errorf(codes.Internal, "unmount volume %s: %v", volume, err)
	}
	d.mounted[key] = slices.Delete(d.mounted[key], at, at+1)
	if err := d.run(ctx, node, "rmdir", path); err != nil {
		return status.Errorf(codes.Internal, "remove the folder of volume %s: %v", volume, err)
	}
	return nil
}

// mount is the key of what a node has mounted of a volume.
func mount(node, volume string) string { return node + " " + volume }
