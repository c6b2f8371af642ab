package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"quiesce/test/parts/tools"
)

// askTimeout bounds how long a program on this machine may take to print its version: far longer than the largest needs to start.
const askTimeout = 10 * time.Second

// copied puts programs that are on this machine already into the cache, and returns the others.
func copied(ctx context.Context, missing []tools.Tool) (others []tools.Tool) {
	for _, t := range missing {
		from := found(ctx, t)
		if from == "" {
			others = append(others, t)
			continue
		}
		if err := copyTo(t, from); err != nil {
			fmt.Printf("tools: %s is not used: %v\n", from, err)
			others = append(others, t)
			continue
		}
		fmt.Printf("tools: %s %s is copied from %s\n", t.Name, t.Version, from)
	}
	return others
}

// found returns the path of such a program, or nothing. KUBEBUILDER_ASSETS comes first. Why a program of it is not used is printed.
func found(ctx context.Context, t tools.Tool) string {
	if t.Asked == "" {
		return ""
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	for _, dir := range append([]string{assets}, filepath.SplitList(os.Getenv("PATH"))...) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, t.Name)
		err := check(ctx, t, path)
		if err == nil {
			return path
		}
		if dir == assets && !errors.Is(err, os.ErrNotExist) {
			fmt.Printf("tools: %s is not used: %v\n", path, err)
		}
	}
	return ""
}

// check reports why a file is not this tool: a script or a link to another program may behave otherwise when it is copied.
func check(ctx context.Context, t tools.Tool, path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if filepath.Base(real) != t.Name || !isExecutable(real) {
		return errors.New("it is a script, or a link to another program")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, real, strings.Fields(t.Asked)...)
	cmd.WaitDelay = time.Second // of a child that keeps its output open
	said, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("ask its version: %w", err)
	}
	if !says(said, t.Version) {
		first, _, _ := bytes.Cut(said, []byte("\n"))
		return fmt.Errorf("it says %.60q, not %s", first, t.Version)
	}
	return nil
}

// isExecutable reports whether a file is a program for Linux, by its first bytes.
func isExecutable(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(file, magic)
	return err == nil && string(magic) == "\x7fELF"
}

// says reports whether a text has exactly this version: v1.36.3 and 1.36.3, but not v1.36.3-eks.
func says(text []byte, version string) bool {
	number := regexp.QuoteMeta(strings.TrimPrefix(version, "v"))
	return regexp.MustCompile(`(^|[^0-9A-Za-z.])v?` + number + `($|[^0-9A-Za-z.+-])`).Match(text)
}

func copyTo(t tools.Tool, from string) error {
	to, err := t.Cached()
	if err != nil {
		return err
	}
	program, err := os.Open(from)
	if err != nil {
		return err
	}
	defer program.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	unfinished, err := os.OpenFile(to+".unfinished", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(unfinished, program)
	if err := cmp.Or(err, unfinished.Close()); err != nil {
		return err
	}
	return os.Rename(unfinished.Name(), to)
}
