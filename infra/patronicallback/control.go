package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Patroni shuts its REST API down before it stops PostgreSQL, when it is itself told to stop. Then PostgreSQL's own file says what it is.

const (
	// stateOffset is where pg_control has the state, after the system identifier and two versions, and inProduction the state of a
	// primary that runs (https://github.com/postgres/postgres/blob/REL_17_STABLE/src/include/catalog/pg_control.h, ControlFileData, DBState).
	stateOffset  = 16
	inProduction = 6
	maxCommand   = 64 << 10 // of a process, in bytes
)

// runsPrimary reports whether the PostgreSQL with this data directory is a primary. Without a directory, it is that of the one PostgreSQL
// in this container.
func runsPrimary(data string) (bool, error) {
	if data == "" {
		var err error
		if data, err = dataFolder("/proc"); err != nil {
			return false, err
		}
	}
	file, err := os.Open(filepath.Join(data, "global", "pg_control"))
	if err != nil {
		return false, fmt.Errorf("read the state of PostgreSQL: %w", err)
	}
	defer file.Close()
	state := make([]byte, 4)
	if _, err := file.ReadAt(state, stateOffset); err != nil {
		return false, fmt.Errorf("read the state of PostgreSQL: %w", err)
	}
	return binary.NativeEndian.Uint32(state) == inProduction, nil
}

// dataFolder returns the data directory that the running PostgreSQL was started with, as Patroni does: postgres -D FOLDER.
func dataFolder(proc string) (string, error) {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline"))
	if err != nil {
		return "", err
	}
	var found []string
	for _, name := range files {
		args := strings.Split(string(readSome(name)), "\x00")
		if filepath.Base(args[0]) == "postgres" && len(args) > 2 && args[1] == "-D" {
			found = append(found, args[2])
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); len(found) != 1 {
		return "", errors.New("the data directory is not known: set -data")
	}
	return found[0], nil
}

// readSome returns the beginning of a file; nothing if it cannot be read: processes come and go.
func readSome(name string) []byte {
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer file.Close()
	text, _ := io.ReadAll(io.LimitReader(file, maxCommand))
	return text
}
