// Package guard compares what quiesce costs with committed numbers, without a clock: sizes, requests, allocations. A number that rises
// fails a test. So it rises only in a commit that says why. One that falls fails too, so that the gain is kept.
package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"quiesce/test/parts/need"
)

// goVersion is the number that names the version of Go. Most others depend on it.
const goVersion = "Go version"

// SameGo skips the test if another version of Go made the numbers: each links other packages and makes other code. With CI=true it fails.
// The number of the patch does not matter: patches change little, and people and CI have different ones.
func SameGo(t testing.TB) {
	t.Helper()
	now := minor(runtime.Version())
	if isUpdate() {
		check(t, change(goVersion, now))
		return
	}
	if made := committed(t, goVersion); made != now {
		need.Part(t, fmt.Errorf("test/guard/numbers.txt is for Go %s, and this is Go %s: %s", made, now, howToUpdate))
	}
}

// minor returns 1.26 for go1.26.8, and for go1.26.
func minor(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "go"), ".")
	second, _, _ := strings.Cut(rest, ".")
	return major + "." + second
}

const howToUpdate = "run this test with UPDATE=1, and say why in the commit"

// Exact requires that the number is the committed one.
func Exact(t testing.TB, name string, got int) {
	t.Helper()
	Within(t, name, got, 0)
}

// Within requires that the number is at most this many percent above or below the committed one. The committed one does not follow, so many
// small steps fail as one large one does.
func Within(t testing.TB, name string, got, percent int) {
	t.Helper()
	if isUpdate() {
		if before, err := strconv.Atoi(read(t).value(name)); err != nil || !isWithin(got, before, percent) {
			check(t, change(name, strconv.Itoa(got)))
		}
		return
	}
	if problem := compare(name, got, Number(t, name), percent); problem != "" {
		t.Error(problem)
	}
}

// Number returns the committed number.
func Number(t testing.TB, name string) int {
	t.Helper()
	n, err := strconv.Atoi(committed(t, name))
	check(t, err)
	return n
}

// compare returns what is wrong with the number; empty: nothing.
func compare(name string, got, want, percent int) string {
	switch {
	case isWithin(got, want, percent):
		return ""
	case got > want:
		return fmt.Sprintf("%s rose from %d to %d, by %d. Avoid that, or: %s", name, want, got, got-want, howToUpdate)
	default:
		return fmt.Sprintf("%s fell from %d to %d, by %d. Keep that: %s", name, want, got, want-got, howToUpdate)
	}
}

func isWithin(got, want, percent int) bool { return max(got-want, want-got)*100 <= want*percent }

func isUpdate() bool { return os.Getenv("UPDATE") != "" }

// Root returns the folder of the module.
func Root() (string, error) {
	folder, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(folder, "go.mod")); missing == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			err = errors.New("no folder above has a go.mod")
		}
		folder = filepath.Dir(folder)
	}
	return "", err
}

// lines are those of numbers.txt: comments, and "name: value".
type lines []string

func open() (*os.File, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(root, "test", "guard", "numbers.txt"), os.O_RDWR, 0)
}

func read(t testing.TB) lines {
	t.Helper()
	file, err := open()
	check(t, err)
	defer file.Close()
	text, err := os.ReadFile(file.Name())
	check(t, err)
	return strings.Split(string(text), "\n")
}

func committed(t testing.TB, name string) string {
	t.Helper()
	value := read(t).value(name)
	if value == "" {
		t.Fatalf("test/guard/numbers.txt has no %q: %s", name, howToUpdate)
	}
	return value
}

func (l lines) value(name string) string {
	for _, line := range l {
		if value, is := strings.CutPrefix(line, name+": "); is {
			return value
		}
	}
	return ""
}

// set changes the value, or adds the line at the end.
func (l lines) set(name, value string) lines {
	for n, line := range l {
		if strings.HasPrefix(line, name+": ") {
			l[n] = name + ": " + value
			return l
		}
	}
	return append(l[:len(l)-1], name+": "+value, "")
}

// change writes one number. Tests of several packages may do so at once.
func change(name, value string) error {
	file, err := open()
	if err != nil {
		return err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	text, err := os.ReadFile(file.Name())
	if err != nil {
		return err
	}
	changed := lines(strings.Split(string(text), "\n")).set(name, value)
	return os.WriteFile(file.Name(), []byte(strings.Join(changed, "\n")), 0o600)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
