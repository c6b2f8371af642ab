package main

import (
	"archive/zip"
	"fmt"
	"io"

	"quiesce/internal/config"
)

// deployment is one function for one cluster: its zip, and the configuration that lies in it.
type deployment struct {
	config.Config
	zip string
}

// readDeployment reads the configuration as the function will at its start. What it would refuse is refused here.
func readDeployment(path string) (deployment, error) {
	text, err := readConfiguration(path)
	if err != nil {
		return deployment{}, fmt.Errorf("%s: %w", path, err)
	}
	settings, err := config.Parse(text, noEnvironment)
	if err != nil {
		return deployment{}, fmt.Errorf("%s:\n%w", path, err)
	}
	return deployment{Config: settings, zip: path}, nil
}

// noEnvironment: of the variables that config knows, the stack sets only those that it makes itself.
func noEnvironment(string) string { return "" }

func readConfiguration(path string) ([]byte, error) {
	archive, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	defer archive.Close()
	file, err := archive.Open(config.FileName)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}
