//go:build !linux

package runtimeapi

import "syscall"

// diesWithParent is Linux' alone: elsewhere a process outlives a test that is killed.
func diesWithParent() *syscall.SysProcAttr { return nil }
