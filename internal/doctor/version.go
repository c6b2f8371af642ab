package doctor

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// dirty ends versions of builds with changes that no commit has (Makefile).
const dirty = "-dirty"

// otherVersion finds a function of another version than what examines it. Its checks, and the manifests beside it, are of one version.
func (v *view) otherVersion() []Finding {
	if v.Function == nil || !isKnown(v.Function.Version) || !isKnown(v.Version) || v.Function.Version == v.Version {
		return nil
	}
	f := Finding{
		Where: "function " + v.Function.Name, Severity: Warning,
		What: fmt.Sprintf("was deployed as version %s, and this quiescectl is %s", v.Function.Version, v.Version),
		Cost: "what one knows, the other may not: checks, permissions and manifests of one do not fit the other",
		Fix:  "use the quiescectl of the function's version, or deploy this version (infra/README.md)",
	}
	if strings.HasSuffix(v.Function.Version, dirty) { // it cannot be built again
		f.Fix, f.Command = "deploy this version (infra/README.md)", "make deploy"
	} else {
		f.Command = "git checkout " + v.Function.Version + " && make quiescectl"
	}
	return []Finding{f}
}

// isKnown reports whether the text is a version as the Makefile makes them, and not that of a build that does not know its own.
func isKnown(version string) bool {
	known := strings.TrimSuffix(version, dirty)
	return known != "dev" && known != "unknown" && made().MatchString(version)
}

var made = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`) })
