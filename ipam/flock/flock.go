// SPDX-License-Identifier: Apache-2.0

// Package flock takes file locks with a limit to the wait. Who waits is queued
// by the kernel, nobody polls; and a process that ends, however it ends, gives
// back its locks.
package flock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Mode is how a lock is held.
type Mode int

// A lock is held by any number of Shared, or by one Exclusive.
const (
	Shared    Mode = syscall.LOCK_SH
	Exclusive Mode = syscall.LOCK_EX
)

// ErrTimeout is matched by Take's error if others held the lock all the time.
var ErrTimeout = errors.New("locked by others")

// Take makes the file if it isn't there and locks it, waiting for others in
// their order. Closing the file gives the lock back.
func Take(path string, mode Mode, wait time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	fd := int(file.Fd())
	err = syscall.Flock(fd, int(mode)|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return queue(file, mode, wait)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	return file, nil
}

// queue waits for the lock on a thread of its own. After the time limit that
// thread goes on waiting, and gives the lock back when it gets it.
func queue(file *os.File, mode Mode, wait time.Duration) (*os.File, error) {
	locked := make(chan error, 1)
	go func() { locked <- flock(int(file.Fd()), mode) }()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		return file, nil
	case <-timer.C:
		go func() { locked <- errors.Join(<-locked, file.Close()) }() // nobody is left to be told
		return nil, fmt.Errorf("lock %s: %w for %s", file.Name(), ErrTimeout, wait)
	}
}

func flock(fd int, mode Mode) error {
	for {
		if err := syscall.Flock(fd, int(mode)); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
