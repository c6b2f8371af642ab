package env

import (
	"errors"

	"quiesce/test/parts/images"
)

// archives returns the images that pods on real nodes may use.
func archives() ([]string, error) {
	var paths []string
	var errs []error
	for _, i := range images.All() {
		path, err := images.Path(i.Name, i.Tag)
		paths, errs = append(paths, path), append(errs, err)
	}
	return paths, errors.Join(errs...)
}
