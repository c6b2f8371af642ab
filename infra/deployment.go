package main

import (
	"archive/zip"
	"fmt"
	"io"
	"os"

	"quiesce/internal/config"
)

// deployment is the function of one cluster: its zip, and the configuration in that zip.
type deployment struct {
	config.Config
	zip  string
	text string // the configuration, for the function's environment; empty: the zip has it
	// hooksText is that of the function that puts and removes hooks. It has no phases: with a mistake in them, that function must still answer
	// CloudFormation, or the stack could be neither created nor deleted.
	hooksText string

	version string // of the program in the zip; empty: unknown
}

// versionVariable names the version for the CDK app, and for the function that it deploys. The function itself has its version built in.
// Who describes the function sees the variable (quiescectl doctor).
const versionVariable = "QUIESCE_VERSION"

// readDeployment reads the configuration as the function does at startup, and rejects what the function would reject. It
// rejects a name of the stack that another cluster could have, too.
func readDeployment(path string) (deployment, error) {
	text, err := readConfiguration(path)
	if err != nil {
		return deployment{}, fmt.Errorf("%s: %w", path, err)
	}
	settings, err := config.Parse(text, noEnvironment)
	if err != nil {
		return deployment{}, fmt.Errorf("%s:\n%w", path, err)
	}
	if err := settings.CheckStackName(); err != nil {
		return deployment{}, fmt.Errorf("%s:\n%w", path, err)
	}
	return deployment{Config: settings, zip: path, version: os.Getenv(versionVariable)}, nil
}

// noEnvironment is an empty environment. The stack itself sets the variables that the function reads.
func noEnvironment(string) string { return "" }

// readConfiguration returns the text of the configuration in a zip.
func readConfiguration(path string) ([]byte, error) {
	archive, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("%w (make build creates it)", err)
	}
	defer archive.Close()
	file, err := archive.Open(config.FileName)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}
