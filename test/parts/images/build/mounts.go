package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// remove removes the folder dir, but never what is mounted inside it: an interrupted debootstrap leaves the host's /proc and /sys
// mounted there.
func remove(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func unmountBelow(dir string) error {
	real, err := filepath.EvalSymlinks(dir) // as the kernel lists it
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer list.Close()
	mounts, err := below(real, list)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		if said, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			return fmt.Errorf("unmount %s: %w\n%s", mount, err, said)
		}
	}
	return nil
}

// unescape decodes the kernel's escapes of blanks in a path.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// below returns the mount points inside dir, the latest first: the order in which they can be unmounted.
func below(dir string, mountinfo io.Reader) (mounts []string, err error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		const mountPoint = 4 // of the fields that proc_pid_mountinfo(5) lists
		fields := strings.Fields(lines.Text())
		if len(fields) <= mountPoint {
			continue
		}
		if path := unescape.Replace(fields[mountPoint]); strings.HasPrefix(path, dir+"/") {
			mounts = append(mounts, path)
		}
	}
	slices.Reverse(mounts)
	return mounts, lines.Err()
}
