package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// cgroupRoot is where control groups of both versions are mounted (https://docs.kernel.org/admin-guide/cgroup-v2.html).
const cgroupRoot = "/sys/fs/cgroup"

// makeCgroup makes a control group in which a kubelet can manage pods. The reaper removes it.
func makeCgroup(path string) error {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return makeUnified(path)
	}
	hierarchies, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		if !h.IsDir() { // a link: the second name of a hierarchy with two controllers
			continue
		}
		if err := makeInHierarchy(filepath.Join(cgroupRoot, h.Name()), path); err != nil {
			return err
		}
	}
	return nil
}

// makeInHierarchy makes the levels one by one: no process can enter a cpuset without CPUs and memory nodes.
func makeInHierarchy(hierarchy, path string) error {
	parent := hierarchy
	for level := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		child := filepath.Join(parent, level)
		if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(parent, child, file); err != nil {
				return err
			}
		}
		parent = child
	}
	return nil
}

func inherit(parent, child, file string) error {
	value, err := os.ReadFile(filepath.Join(parent, file))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(child, file), value, 0o644)
}

// makeUnified makes a group of version 2 and delegates all controllers to it.
func makeUnified(path string) error {
	parent := cgroupRoot
	for level := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err := delegateControllers(parent); err != nil {
			return err
		}
		parent = filepath.Join(parent, level)
		if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return delegateControllers(parent)
}

// delegateControllers enables the group's controllers for its child groups.
func delegateControllers(group string) error {
	controllers, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("hand controller %s down from %s: %w", c, group, err)
		}
	}
	return nil
}
