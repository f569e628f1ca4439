// SPDX-License-Identifier: Apache-2.0

package flock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func mustTake(t *testing.T, path string, mode Mode) *os.File {
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
	first, second := mustTake(t, path, Shared), mustTake(t, path, Shared)
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
	mustTake(t, path, Exclusive).Close()
}

// TestExclusiveGetsItsTurn has shared locks follow each other without a gap: one
// that comes after the exclusive one waits behind it, until that gives up.
func TestExclusiveGetsItsTurn(t *testing.T) {
	const moment = 10 * time.Millisecond
	path := filepath.Join(t.TempDir(), "lock")
	first := mustTake(t, path, Shared)
	waited := make(chan *os.File, 1)
	go func() { waited <- mustTake(t, path, Exclusive) }()
	for { // until the exclusive one stands in the turnstile
		next, err := Take(path, Shared, moment)
		if errors.Is(err, ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		first.Close()
		first = next
	}
	first.Close()
	(<-waited).Close()

	first = mustTake(t, path, Shared)
	if _, err := Take(path, Exclusive, moment); !errors.Is(err, ErrTimeout) {
		t.Errorf("exclusive beside shared: %v, want ErrTimeout", err)
	}
	mustTake(t, path, Shared).Close() // who gave up stops nobody
	first.Close()
	mustTake(t, path, Exclusive).Close()
}

func BenchmarkTake(b *testing.B) {
	path := filepath.Join(b.TempDir(), "lock")
	for b.Loop() {
		file, err := Take(path, Shared, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		file.Close()
	}
}

func TestTakeNowhere(t *testing.T) {
	if _, err := Take(filepath.Join(t.TempDir(), "none", "lock"), Shared, time.Second); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want os.ErrNotExist", err)
	}
}

// TestTimeoutsKeepNoThreads: however often a lock can't be had, the process doesn't
// grow, and gets the lock once it is given back.
func TestTimeoutsKeepNoThreads(t *testing.T) {
	lock := New(filepath.Join(t.TempDir(), "lock"))
	held := mustTake(t, lock.Path(), Exclusive)
	before := threads(t)
	for range 100 {
		if _, err := lock.Take(Exclusive, time.Millisecond); !errors.Is(err, ErrTimeout) {
			t.Fatalf("want ErrTimeout, got %v", err)
		}
	}
	if n := threads(t) - before; n > 10 {
		t.Errorf("%d threads more", n)
	}
	go held.Close()
	file, err := lock.Take(Exclusive, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
}

func threads(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
