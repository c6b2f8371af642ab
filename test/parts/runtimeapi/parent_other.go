//go:build !linux

package runtimeapi

import "syscall"

// diesWithParent exists only on Linux: elsewhere a process outlives a killed test.
func diesWithParent() *syscall.SysProcAttr { return nil }
