// Command oci packs a static program as a container image in an OCI layout, for `make image`: no shell, no root, and the same bytes from
// the same program.
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"

	"quiesce/test/parts/images/archive"
)

// user is nobody in particular: no account has this number. Distroless images use it for the same purpose.
const user = "65532:65532"

// architectures are ELF's names of Go's.
var architectures = map[elf.Machine]string{elf.EM_AARCH64: "arm64", elf.EM_X86_64: "amd64"}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: oci PROGRAM NAME:TAG IMAGE.tar")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
}

// pack writes the image. The program itself says for which machines it is.
func pack(program, ref, dest string) error {
	arch, err := check(program)
	if err != nil {
		return fmt.Errorf("look at %s: %w", program, err)
	}
	return archive.WriteOCI(dest, archive.OCI{Ref: ref, Arch: arch, User: user, Program: program})
}

// check returns the architecture of a program. One that needs a loader cannot run in an image that has nothing else.
func check(program string) (string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("it is not static: build it with CGO_ENABLED=0")
		}
	}
	arch, known := architectures[file.Machine]
	if !known {
		return "", fmt.Errorf("it is for %v, and images are made for arm64 and amd64", file.Machine)
	}
	return arch, nil
}
