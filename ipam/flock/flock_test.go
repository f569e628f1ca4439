// SPDX-License-Identifier: Apache-2.0

package flock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func take(t *testing.T, path string, mode Mode) *os.File {
	t.Helper()
	file, err := Take(path, mode, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTake(t *testing.T) {
	const moment = 10 * time.Millisecond
	path := filepath.Join(t.TempDir(), "lock")
	first, second := take(t, path, Shared), take(t, path, Shared)
	if _, err := Take(path, Exclusive, moment); !errors.Is(err, ErrTimeout) {
		t.Errorf("exclusive beside shared: %v, want ErrTimeout", err)
	}
	waited := make(chan *os.File, 1)
	go func() {
		file, err := Take(path, Exclusive, time.Minute)
		if err != nil {
			t.Error(err)
		}
		waited <- file
	}()
	first.Close()
	second.Close()
	alone := <-waited
	for _, mode := range []Mode{Shared, Exclusive} {
		if _, err := Take(path, mode, moment); !errors.Is(err, ErrTimeout) {
			t.Errorf("beside exclusive: %v, want ErrTimeout", err)
		}
	}
	alone.Close()
	take(t, path, Exclusive).Close()
}

func TestTakeNowhere(t *testing.T) {
	if _, err := Take(filepath.Join(t.TempDir(), "none", "lock"), Shared, time.Second); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want os.ErrNotExist", err)
	}
}
