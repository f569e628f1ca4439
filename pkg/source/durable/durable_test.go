// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	write := func(text string, err error) error {
		return Replace(path, func(w io.Writer) error {
			_, werr := io.WriteString(w, text)
			return errors.Join(werr, err)
		})
	}
	if err := write("one", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk is full")
	if err := write("half of tw", broken); !errors.Is(err, broken) {
		t.Errorf("error = %v, want %v", err, broken)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "one" {
		t.Errorf("content = %q, %v after a write that broke off; want the old", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("folder has %v (%v), want one file", entries, err)
	}
	if err := Replace(filepath.Join(dir, "none", "state"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want that the folder isn't there", err)
	}
}
