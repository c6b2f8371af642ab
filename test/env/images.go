package env

import (
	"errors"
	"slices"

	"quiesce/test/parts/images"
)

// usualImages are the images that most environments with machines need. Every machine has a copy of all its images.
var usualImages = []string{"pgbouncer", "postgres"}

// archives returns the images with these names, or the usual ones, in all their versions.
func archives(names []string) ([]string, error) {
	if len(names) == 0 {
		names = usualImages
	}
	var paths []string
	var errs []error
	for _, i := range images.All() {
		if slices.Contains(names, i.Name) {
			path, err := images.Path(i.Name, i.Tag)
			paths, errs = append(paths, path), append(errs, err)
		}
	}
	return paths, errors.Join(errs...)
}
