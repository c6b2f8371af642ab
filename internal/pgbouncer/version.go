package pgbouncer

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"sync"
)

// Version is the version of a pgbouncer. The meaning of SIGTERM changed in 1.23
// (https://www.pgbouncer.org/changelog.html#pgbouncer-123x).
type Version struct{ Major, Minor, Patch int }

// serverVersionPattern matches the server_version that pgbouncer, and no other server, reports at a console login: its
// version, with a suffix on branches (1.25.0dev), then "/bouncer".
var serverVersionPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?[^/]*/bouncer$`)
})

func parseVersion(serverVersion string) (Version, error) {
	found := serverVersionPattern().FindStringSubmatch(serverVersion)
	if found == nil {
		return Version{}, fmt.Errorf("%w: its server_version is %s", ErrNotPgbouncer, printable(serverVersion))
	}
	number := func(digits string) int {
		n, _ := strconv.Atoi(digits) // six digits at most; none are 0
		return n
	}
	return Version{number(found[1]), number(found[2]), number(found[3])}, nil
}

// AtLeast reports whether the version is this one or a later one.
func (v Version) AtLeast(major, minor int) bool {
	return cmp.Or(cmp.Compare(v.Major, major), cmp.Compare(v.Minor, minor)) >= 0
}

// WaitsOnShutdown reports whether a shutdown of this version can wait for transactions or clients.
func (v Version) WaitsOnShutdown() bool { return v.AtLeast(1, 23) }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }
