// SPDX-License-Identifier: Apache-2.0

package site

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// BinEnv names where the programs are built already, as for guests and for tests
// in their own namespaces.
const BinEnv = "PATCHBAY_BIN"

// Build builds the programs that a site needs into dir, with the names they go by.
func Build(tb netlab.TB, dir string) {
	tb.Helper()
	if err := build(dir); err != nil {
		tb.Fatalf("%v", err)
	}
}

// WithPrograms builds the programs once for all tests of a package and runs them.
// What runs without root needs none.
func WithPrograms(run func() int) int {
	if os.Getenv(BinEnv) != "" || os.Geteuid() != 0 {
		return run()
	}
	dir, err := os.MkdirTemp("", "patchbay-bin")
	if err == nil {
		defer os.RemoveAll(dir)
		err = errors.Join(build(dir), os.Setenv(BinEnv, dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

func build(dir string) error {
	const module = "github.com/patchbay-net/patchbay/"
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/",
		module + "cmd/patchbay", module + "cmd/patchbayd", module + "test/site/runtime"}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	for name, binary := range map[string]string{"patchbay-vswitch": "patchbay", "patchbay-ipam": "patchbay",
		"patchbay-controller": "patchbayd", "patchbayctl": "patchbayd"} {
		if err := os.Symlink(binary, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	return nil
}
