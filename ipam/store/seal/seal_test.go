// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestSeal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	note, err := os.Create(filepath.Join(dir, "note"))
	if err != nil {
		t.Fatal(err)
	}
	defer note.Close()
	s := Seal{Path: path, Note: note, Sync: true}
	write := func(text string) error { return os.WriteFile(path, []byte(text), 0o600) }
	for _, step := range []struct {
		name   string
		do     func() error
		broken bool
	}{
		{"never sealed", func() error { return write("one") }, false},
		{"sealed", s.Close, false},
		{"changed behind its back", func() error { return write("two") }, true},
		{"about to change", s.Break, false},
		{"changed", func() error { return errors.Join(write("three"), s.Close()) }, false},
		{"cut short", func() error { return os.Truncate(path, 3) }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if err := s.Check(); errors.Is(err, ErrBroken) != step.broken || err != nil && !step.broken {
			t.Errorf("%s: %v, want it broken: %t", step.name, err, step.broken)
		}
	}
}
