package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	procFolder = "/proc"
	// programName is pgbouncer's name in /proc.
	programName = "pgbouncer"
)

// process is one pgbouncer.
type process struct {
	pid     int
	folder  string // in /proc
	started string // when: another process with the same number began later
	handle  *os.Process
}

// openProcess returns a process that runs.
func openProcess(proc string, pid int) (*process, error) {
	p := &process{pid: pid, folder: filepath.Join(proc, strconv.Itoa(pid))}
	handle, err := os.FindProcess(pid) // a handle of this process, not of a later one with its number
	if err != nil {
		return nil, err
	}
	p.handle = handle
	stat, err := readStat(p.folder)
	if err != nil {
		return nil, err
	}
	if p.started = stat.started; stat.ended() {
		return nil, os.ErrProcessDone
	}
	return p, nil
}

// ended reports whether the process is gone. A zombie counts as gone.
func (p *process) ended() bool {
	stat, err := readStat(p.folder)
	return err != nil || stat.started != p.started || stat.ended()
}

// signal sends a signal; 0 asks only whether it would be allowed.
func (p *process) signal(s syscall.Signal) error {
	err := p.handle.Signal(s)
	switch {
	case errors.Is(err, os.ErrProcessDone):
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("signal pgbouncer (process %d) as user %d: %w: set runAsUser of the container with the hook to pgbouncer's user",
			p.pid, os.Getuid(), err)
	case err != nil:
		return fmt.Errorf("signal pgbouncer (process %d): %w", p.pid, err)
	}
	return nil
}

// stat is what /proc/PID/stat says (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
type stat struct{ name, state, started string }

func (s stat) ended() bool { return s.state == "Z" || s.state == "X" }

// Positions of fields after the name, which is in parentheses and may have any characters.
const (
	stateField   = 0
	startedField = 19
)

func readStat(folder string) (s stat, err error) {
	text, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return s, err
	}
	before, after, found := strings.Cut(string(text), "(")
	end := strings.LastIndex(after, ")")
	if !found || end < 0 {
		return s, fmt.Errorf("read %s/stat: it has no name: %q", folder, before)
	}
	fields := strings.Fields(after[end+1:])
	if len(fields) <= startedField {
		return s, fmt.Errorf("read %s/stat: it has %d fields", folder, len(fields))
	}
	return stat{name: after[:end], state: fields[stateField], started: fields[startedField]}, nil
}

// findProcesses returns the pgbouncers to stop: the one that the options name, or those with that name.
func findProcesses(proc string, o options) ([]*process, error) {
	switch {
	case o.pid > 0:
		return openGiven(proc, o.pid)
	case o.pidFile != "":
		return openPidFile(proc, o.pidFile)
	default:
		return openNamed(proc)
	}
}

// openNamed opens the processes with pgbouncer's name. Those of the hook's own container come before others that it sees in a shared
// process namespace: they have hooks of their own.
func openNamed(proc string) ([]*process, error) {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find pgbouncer: %s has no processes: mount it as procfs, as container runtimes do", proc)
	}
	var ours, others []*process
	for _, file := range files {
		p := openIfNamed(proc, filepath.Dir(file))
		switch {
		case p == nil:
		case inOurContainer(proc, p):
			ours = append(ours, p)
		default:
			others = append(others, p)
		}
	}
	switch {
	case len(ours) > 0:
		return ours, nil
	case len(others) <= 1:
		return others, nil
	}
	return nil, fmt.Errorf("find pgbouncer: there are %d in other containers of the pod: set --pid-file, or put the hook into their containers", len(others))
}

// openIfNamed opens a process with pgbouncer's name; nil: it has another, or has ended. Processes come and go.
func openIfNamed(proc, folder string) *process {
	pid, err := strconv.Atoi(filepath.Base(folder))
	if err != nil {
		return nil
	}
	if s, err := readStat(folder); err != nil || s.name != programName {
		return nil
	}
	p, err := openProcess(proc, pid)
	if err != nil {
		return nil
	}
	return p
}

// inOurContainer reports whether a process has our file system.
func inOurContainer(proc string, p *process) bool {
	own, err := os.Readlink(filepath.Join(proc, "self", "ns", "mnt"))
	its, itsErr := os.Readlink(filepath.Join(p.folder, "ns", "mnt"))
	return err == nil && itsErr == nil && own == its
}

func openGiven(proc string, pid int) ([]*process, error) {
	p, err := openProcess(proc, pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrProcessDone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find pgbouncer: %w", err)
	}
	return []*process{p}, nil
}

// openPidFile opens the process in pgbouncer's file. pgbouncer removes the file when it exits, but not when it is killed: then the number
// may be another program's. Such a program has another name, and started after the file was written.
func openPidFile(proc, path string) ([]*process, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find pgbouncer: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return nil, fmt.Errorf("find pgbouncer: %s has no number of a process: set --pid-file to pgbouncer's pidfile", path)
	}
	if s, err := readStat(filepath.Join(proc, strconv.Itoa(pid))); err == nil && s.name != programName && !startedBefore(proc, s, path) {
		return nil, fmt.Errorf("find pgbouncer: process %d of %s is %q, and did not start before it was written: remove the stale file, or set --pid", pid, path, s.name)
	}
	return openGiven(proc, pid)
}

const (
	// ticksPerSecond is the unit of the start of a process: USER_HZ, which Linux fixes for programs (man 7 time).
	ticksPerSecond = 100
	// startTolerance covers that the time of the boot has whole seconds, and that clocks are adjusted. The kernel gives a number to another
	// process after tens of thousands of others, so it takes longer.
	startTolerance = 2 * time.Second
)

// startedBefore reports whether a process started before the file was written. It is false if that is not known.
func startedBefore(proc string, s stat, path string) bool {
	file, err := os.Stat(path)
	if err != nil {
		return false
	}
	ticks, err := strconv.ParseInt(s.started, 10, 64)
	if err != nil {
		return false
	}
	text, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if seconds, is := strings.CutPrefix(strings.TrimSpace(line), "btime "); is {
			boot, err := strconv.ParseInt(seconds, 10, 64)
			started := time.Unix(boot, 0).Add(time.Duration(ticks) * time.Second / ticksPerSecond)
			return err == nil && started.Before(file.ModTime().Add(startTolerance))
		}
	}
	return false
}
