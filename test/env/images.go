package env

import (
	"errors"

	"quiesce/test/parts/images"
)

// archives are the images that pods of a stage's machines may use.
func archives() ([]string, error) {
	var paths []string
	var errs []error
	for _, i := range images.All() {
		path, err := images.Path(i.Name, i.Tag)
		paths, errs = append(paths, path), append(errs, err)
	}
	return paths, errors.Join(errs...)
}
