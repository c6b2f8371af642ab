// Command bundle creates the function's zip from the program and its configuration. Times, modes and order are fixed, so the
// same files give the same bytes, and only a change causes a deployment. The zip of a release has no configuration.
// A configuration that the function would refuse is an error with the file's path: in the zip it has another name.
package main

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"quiesce/internal/config"
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
	if err := check(configuration); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	archive := zip.NewWriter(file)
	if err := add(archive, "bootstrap", bootstrap, 0o755); err != nil {
		return err
	}
	if configuration != "" {
		if err := add(archive, config.FileName, configuration, 0o644); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}

// check returns what is wrong with a configuration.
func check(path string) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = config.Parse(text, environment)
	var wrong config.Errors
	if errors.As(err, &wrong) {
		return fmt.Errorf("the configuration has errors:\n%s", wrong.In(path))
	}
	return err
}

// environment has a name for the cluster: that of the function may come from there.
func environment(name string) string {
	if name == "CLUSTER_NAME" {
		return "any"
	}
	return ""
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
