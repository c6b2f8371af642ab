package runtimeapi

import "syscall"

// diesWithParent makes the kernel kill the process when the thread that started it ends in any way.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
