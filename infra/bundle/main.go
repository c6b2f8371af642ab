// Command bundle creates the function's zip from the program and its configuration. Times, modes and order are fixed, so the
// same files give the same bytes, and only a change causes a deployment. The zip of a release has no configuration.
package main

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"time"
)

// epoch is the earliest time that a zip can store.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

func main() {
	var err error
	switch arguments := os.Args[1:]; len(arguments) {
	case 2:
		err = bundle(arguments[0], "", arguments[1])
	case 3:
		err = bundle(arguments[0], arguments[1], arguments[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: bundle BOOTSTRAP [CONFIGURATION] ZIP")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

// bundle writes the zip to path. Without a configuration, the function reads it from its environment.
func bundle(bootstrap, configuration, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	archive := zip.NewWriter(file)
	if err := add(archive, "bootstrap", bootstrap, 0o755); err != nil {
		return err
	}
	if configuration != "" {
		if err := add(archive, "quiesce.yaml", configuration, 0o644); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}

func add(archive *zip.Writer, name, path string, mode os.FileMode) error {
	source, err := os.Open(path)
	if err != nil {
		return err
	}
	defer source.Close()
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: epoch}
	header.SetMode(mode)
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(entry, source)
	return err
}
