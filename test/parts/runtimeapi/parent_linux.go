package runtimeapi

import "syscall"

// diesWithParent has the kernel kill the process when the thread that started it ends, however that comes about.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
