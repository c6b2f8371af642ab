package pooler

import (
	"regexp"
	"strconv"
	"strings"
	"sync"

	"quiesce/internal/escort"
	"quiesce/internal/pgbouncer"
)

// AdvisePod returns warnings of a pooler as its manifest shows it, without its console. Version is nil if it is not known; modes are the
// pool modes that its configuration names.
func AdvisePod(s Settings, pod escort.Pod, selectors escort.Selectors, version *pgbouncer.Version, modes []string) (warnings []string) {
	a := adviceInput{s, pod, selectors, probe{version: version, modes: modes}}
	for _, rule := range []func(adviceInput) string{
		adviceInput.preStop, adviceInput.grace, adviceInput.singleReplica, adviceInput.liveness, adviceInput.sessions,
	} {
		if warning := rule(a); warning != "" {
			warnings = append(warnings, escort.Printable(warning))
		}
	}
	return warnings
}

// tagVersion finds a version of pgbouncer in the tag of an image: 1.22.1-p0, v1.24.1, or ubi9-1.24-2534.
var tagVersion = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?:^|-)v?(1)\.(\d{1,3})(?:\.(\d{1,3}))?(?:$|[-.+_])`)
})

// ImageVersion returns the version that the tag of the pooler's image names; nil: none.
func ImageVersion(p escort.Pod) *pgbouncer.Version {
	image, _, _ := strings.Cut(poolerOf(p).Image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	name, tag, _ := strings.Cut(image, ":")
	found := tagVersion().FindStringSubmatch(tag)
	if found == nil || !strings.Contains(name, "pgbouncer") {
		return nil
	}
	number := func(digits string) int {
		n, _ := strconv.Atoi(digits) // three digits at most; none are 0
		return n
	}
	return &pgbouncer.Version{Major: number(found[1]), Minor: number(found[2]), Patch: number(found[3])}
}
