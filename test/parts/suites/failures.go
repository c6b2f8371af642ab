package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

const (
	// blockLines and lineLength bound what is repeated of one failure: enough for a diff of a few fields, and for a report's reason.
	blockLines, lineLength = 15, 600
	// mostLines bounds all of it. A suite that fails as a whole is read from its start.
	mostLines = 150
)

var (
	failedTest = regexp.MustCompile(`^ *--- FAIL: `)
	// blockBegins is the first line of a failed assertion of testify, of a panic, or of a report of the race detector.
	blockBegins = regexp.MustCompile(`^\s+Error Trace:|^panic: |^WARNING: DATA RACE`)
	blockEnds   = regexp.MustCompile(`^ *--- |^ +[\w.-]+\.go:\d+: |^(FAIL|ok)\b|^===`)
	// entry is the first line of what a test has logged, or failed with. Of each failed test the first one is kept, for those that need no assertion.
	entry = regexp.MustCompile(`^ +[\w.-]+\.go:\d+: `)
)

// failures collects the names of failed tests and what they failed on, without the logs between them. A failed test logs thousands of lines, and a
// CI that keeps only a part of the output would lose the reason.
type failures struct {
	lines []string
	open  int  // lines that the current block may still have
	first bool // the line before named a failed test
}

func (f *failures) see(line string) {
	line = strings.TrimRight(line, "\n")
	isTest := failedTest.MatchString(line)
	switch {
	case isTest || blockEnds.MatchString(line):
		f.open = 0
	case blockBegins.MatchString(line):
		f.open = blockLines
	}
	isFirst := f.first && entry.MatchString(line)
	f.first = isTest
	if !isTest && !isFirst && f.open == 0 || len(f.lines) == mostLines {
		return
	}
	f.open = max(0, f.open-1)
	if len(line) > lineLength {
		line = strings.ToValidUTF8(line[:lineLength], "") + " ..."
	}
	f.lines = append(f.lines, line)
}

func (f *failures) print(out io.Writer) {
	if len(f.lines) == 0 {
		return
	}
	fmt.Fprintln(out, "\nFAILURES, without their logs")
	for _, line := range f.lines {
		fmt.Fprintln(out, line)
	}
}
