package env

import (
	"errors"

	"quiesce/test/parts/images"
)

// archives are the images that pods of a stage's machines may use.
func archives() ([]string, error) {
	var paths []string
	var faults []error
	for _, i := range images.All() {
		path, err := images.Path(i.Name, i.Tag)
		paths, faults = append(paths, path), append(faults, err)
	}
	return paths, errors.Join(faults...)
}
