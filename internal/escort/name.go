package escort

import "strings"

// Limits of names in Kubernetes: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and
// https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set.
const (
	maxName      = 253 // of a DNS subdomain
	maxLabelName = 63  // of a label's value, and of the name in its key
	maxUID       = 64  // a UUID has 36
)

// IsLabel reports whether this is a valid label: an optional prefix with a slash, a name, and a value that may be empty.
func IsLabel(key, value string) bool {
	prefix, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		prefix, name = "", key
	}
	return (!prefixed || IsName(prefix)) && isLabelText(name) && (value == "" || isLabelText(value))
}

// IsName reports whether this can be the name of most objects: a DNS subdomain.
func IsName(text string) bool {
	return isText(text, maxName, "-.") && strings.ToLower(text) == text && !strings.Contains(text, "..")
}

func isLabelText(text string) bool { return isText(text, maxLabelName, "-_.") }

// isUID reports whether this can be a UID. The API server makes UUIDs, but accepts any text for the UID of an owner.
func isUID(text string) bool { return isText(text, maxUID, "-") }

// isKind reports whether this can be a kind, with its API group or without it: StatefulSet.apps.kruise.io.
func isKind(text string) bool { return isText(text, maxName, "-.") }

// isText reports whether text has 1 to most ASCII letters, digits and signs, and neither begins nor ends with a sign.
func isText(text string, most int, signs string) bool {
	other := strings.ContainsFunc(text, func(r rune) bool { return !isAlphanumeric(r) && !strings.ContainsRune(signs, r) })
	return text != "" && len(text) <= most && !other && isAlphanumeric(rune(text[0])) && isAlphanumeric(rune(text[len(text)-1]))
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// Valid reports whether the owner is one that Kubernetes can have, so that its parts may be used in names and paths. The pod's author
// writes them, and the API server checks little.
func (o Owner) Valid() bool { return isKind(o.Kind) && IsName(o.Name) && isUID(o.UID) }

// isNamespace reports whether this can be a namespace: a DNS label.
func isNamespace(text string) bool { return IsName(text) && isText(text, maxLabelName, "-") }

// AnyValue stands for every value of a label.
const AnyValue = ""

// HasLabels reports whether an object has all these labels.
func HasLabels(labels, want map[string]string) bool {
	for key, value := range want {
		if has, ok := labels[key]; !ok || value != AnyValue && has != value {
			return false
		}
	}
	return true
}
