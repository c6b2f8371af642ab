package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"quiesce/test/parts/need"
)

// MemoryGroup is a control group that limits the memory of its processes: the kernel kills a process that needs more, as Lambda's
// does. It is removed with the lab.
type MemoryGroup struct {
	path    string
	unified bool // of version 2
}

// RequireMemoryGroups skips or fails a test on a host without them.
func RequireMemoryGroups(t testing.TB) {
	t.Helper()
	var missing error
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		missing = errors.New("control groups need Linux and root")
	}
	need.Part(t, missing)
}

// MemoryGroup makes a control group with this name and memory limit, in bytes.
func (l *Lab) MemoryGroup(name string, limit int64) (*MemoryGroup, error) {
	parent := filepath.Base(l.reaper.dir) // the reaper removes it with its content
	g := &MemoryGroup{path: filepath.Join(cgroupRoot, "memory", parent, name)}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		g = &MemoryGroup{path: filepath.Join(cgroupRoot, parent, name), unified: true}
		if err := makeUnified(parent); err != nil {
			return nil, fmt.Errorf("make a control group: %w", err)
		}
	}
	if err := os.MkdirAll(g.path, 0o755); err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	return g, g.Limit(limit)
}

// Entry returns the file to which the ID of a process is written to put it into the group.
func (g *MemoryGroup) Entry() string { return filepath.Join(g.path, "cgroup.procs") }

// Limit sets the group's memory limit, in bytes.
func (g *MemoryGroup) Limit(bytes int64) error {
	if err := os.WriteFile(g.file("memory.limit_in_bytes", "memory.max"), []byte(strconv.FormatInt(bytes, 10)), 0o644); err != nil {
		return fmt.Errorf("limit the memory of a control group: %w", err)
	}
	return nil
}

// Used returns how many bytes the group uses now.
func (g *MemoryGroup) Used() (int64, error) {
	text, err := os.ReadFile(g.file("memory.usage_in_bytes", "memory.current"))
	if err != nil {
		return 0, fmt.Errorf("measure the memory of a control group: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Killed returns how many processes the kernel has killed for lack of memory.
func (g *MemoryGroup) Killed() (int, error) {
	text, err := os.ReadFile(g.file("memory.oom_control", "memory.events"))
	if err != nil {
		return 0, fmt.Errorf("count the kills in a control group: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var n int
		if found, _ := fmt.Sscanf(line, "oom_kill %d", &n); found == 1 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("count the kills in a control group: %q", text)
}

func (g *MemoryGroup) file(first, second string) string {
	if g.unified {
		return filepath.Join(g.path, second)
	}
	return filepath.Join(g.path, first)
}
