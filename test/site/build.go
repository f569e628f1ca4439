// SPDX-License-Identifier: Apache-2.0

package site

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// Build builds the programs that a site needs into dir, with the names they go by.
func Build(tb netlab.TB, dir string) {
	tb.Helper()
	const module = "github.com/patchbay-net/patchbay/"
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/",
		module + "cmd/patchbay", module + "cmd/patchbayd", module + "test/site/runtime"}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build: %v: %s", err, out)
	}
	for name, binary := range map[string]string{"patchbay-vswitch": "patchbay", "patchbay-ipam": "patchbay",
		"patchbay-controller": "patchbayd", "patchbayctl": "patchbayd"} {
		if err := os.Symlink(binary, filepath.Join(dir, name)); err != nil {
			tb.Fatalf("build: %v", err)
		}
	}
}
