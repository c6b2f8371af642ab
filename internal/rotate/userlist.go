package rotate

import (
	"errors"
	"fmt"
	"strings"
)

// A userlist is pgbouncer's auth_file: lines of "user" "password", where a quote in a text is doubled
// (https://www.pgbouncer.org/config.html#authentication-file-format). A line that begins otherwise is none of a user.

// errUnlisted is the error for a user whom a userlist does not have.
var errUnlisted = errors.New("the userlist has no line of this user")

// lineOf returns the password, or verifier, in the user's line.
func lineOf(list, user string) (stored string, err error) {
	found := 0
	for line := range strings.Lines(list) {
		if name, password, ok := parseLine(line); ok && name == user {
			stored = password
			found++
		}
	}
	switch found {
	case 0:
		return "", errUnlisted
	case 1:
		return stored, nil
	default:
		return "", errors.New("the userlist has several lines of this user")
	}
}

// withLine returns the userlist with the user's line changed, or with a new line at the end. All other lines stay as they are.
func withLine(list, user, stored string) string {
	var b strings.Builder
	changed := false
	for line := range strings.Lines(list) {
		if name, _, ok := parseLine(line); ok && name == user {
			line, changed = formatLine(user, stored), true
		}
		b.WriteString(line)
	}
	if !changed {
		if text := b.String(); text != "" && !strings.HasSuffix(text, "\n") {
			b.WriteByte('\n')
		}
		b.WriteString(formatLine(user, stored))
	}
	return b.String()
}

// withPassword returns the userlist with the user's line changed. The new line has the form of the line of "like". A rotation that is undone
// early ends with a login that has no line yet: then the form is that of the other login.
func withPassword(list string, logins [2]string, user, like, password, verifier string) (string, error) {
	form, err := lineOf(list, like)
	if errors.Is(err, errUnlisted) {
		form, err = lineOf(list, otherThan(like, logins))
	}
	if err != nil {
		return "", err
	}
	if isHashed(form) {
		return withLine(list, user, verifier), nil
	}
	return withLine(list, user, password), nil
}

func formatLine(user, stored string) string {
	return fmt.Sprintf("%s %s\n", quoted(user), quoted(stored))
}

func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }

func parseLine(line string) (user, stored string, ok bool) {
	user, rest, ok := parseQuoted(strings.TrimLeft(line, " \t\r"))
	if !ok {
		return "", "", false
	}
	stored, _, ok = parseQuoted(strings.TrimLeft(rest, " \t"))
	return user, stored, ok
}

// parseQuoted returns the quoted text at the start, and what follows it.
func parseQuoted(text string) (inner, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		return "", "", false
	}
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(text[1:i], `""`, `"`), text[i+1:], true
	}
	return "", "", false
}

// isHashed reports whether a line has no password in clear text.
func isHashed(stored string) bool {
	const md5Length = len("md5") + 32
	return strings.HasPrefix(stored, "SCRAM-SHA-256$") || strings.HasPrefix(stored, "md5") && len(stored) == md5Length
}
