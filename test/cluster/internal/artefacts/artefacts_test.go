// SPDX-License-Identifier: Apache-2.0

package artefacts

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestEnsureBuildsOnChange(t *testing.T) {
	b := &Builder{Source: t.TempDir(), Cache: t.TempDir(), Log: io.Discard}
	input := filepath.Join(b.Source, "input")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(input, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	builds := 0
	a := artefact{name: "thing", inputs: []string{"input"}, build: func(context.Context, *Builder, string) error {
		builds++
		return nil
	}}
	ensure := func() string {
		t.Helper()
		dir, err := b.ensure(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	write("one")
	first := ensure()
	if again := ensure(); again != first || builds != 1 {
		t.Errorf("unchanged: want %s built once, got %s built %d times", first, again, builds)
	}
	write("two")
	if second := ensure(); second == first || builds != 2 {
		t.Errorf("input changed: want another directory, got %s after %d builds", second, builds)
	}
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the older build is still there: %v", err)
	}
	a.recipe = "another way"
	if ensure(); builds != 3 {
		t.Errorf("recipe changed: want 3 builds, got %d", builds)
	}
}

func TestEnsureKeepsNothingOfAFailedBuild(t *testing.T) {
	b := &Builder{Source: t.TempDir(), Cache: t.TempDir(), Log: io.Discard}
	fault := errors.New("fault")
	a := artefact{name: "thing", build: func(context.Context, *Builder, string) error { return fault }}
	for range 2 {
		if _, err := b.ensure(t.Context(), a); !errors.Is(err, fault) {
			t.Errorf("want the build's error, got %v", err)
		}
	}
}
