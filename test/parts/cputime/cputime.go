// Package cputime says how long a process has been on a CPU. Unlike time on the clock, that depends little on what else the machine does.
package cputime

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of the kernel's CPU times (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html). Programs see 100 per
// second.
const clockTick = 10 * time.Millisecond

// Of returns the CPU time of a process, in user and kernel mode: 0 if there is none, and on systems without /proc.
func Of(pid int) time.Duration {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	return parse(stat)
}

// parse returns the CPU time in a process's statistics. The program's name is in parentheses, and may have spaces and parentheses.
func parse(stat []byte) time.Duration {
	const user, system = 11, 12 // after the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= system {
		return 0
	}
	u, _ := strconv.Atoi(string(fields[user]))
	s, _ := strconv.Atoi(string(fields[system]))
	return time.Duration(u+s) * clockTick
}
