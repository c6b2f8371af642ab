package runtimeapi

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of the kernel's CPU times (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html). Programs see 100 per
// second.
const clockTick = 10 * time.Millisecond

// CPU returns the CPU time of its present process. Unlike time on the clock, it depends little on what else the machine does. 0 on systems
// without /proc.
func (f *Function) CPU() time.Duration {
	p, _ := f.present()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	if err != nil || !p.alive() {
		return 0
	}
	return cpuOf(stat)
}

// cpuOf returns the CPU time, in user and kernel mode, in a process's statistics. The program's name is in parentheses, and may have spaces
// and parentheses.
func cpuOf(stat []byte) time.Duration {
	const user, system = 11, 12 // after the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= system {
		return 0
	}
	u, _ := strconv.Atoi(string(fields[user]))
	s, _ := strconv.Atoi(string(fields[system]))
	return time.Duration(u+s) * clockTick
}
