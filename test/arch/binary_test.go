// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestCNIBinaryIsSmall(t *testing.T) {
	out := filepath.Join(t.TempDir(), "patchbay")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./cmd/patchbay")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxCNIBinary {
		t.Errorf("CNI binary: %d bytes, at most %d", info.Size(), maxCNIBinary)
	}
}
