// SPDX-License-Identifier: Apache-2.0

package load

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNoMountOverFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ensureBPFFS(filepath.Join(dir, "patchbay")); err == nil || !strings.Contains(err.Error(), "isn't empty") {
		t.Errorf("ensureBPFFS below a folder with files: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Error(err)
	}
}
