// SPDX-License-Identifier: Apache-2.0

// Package flock takes file locks with a limit to the wait, and in order. Who waits
// is queued by the kernel, nobody polls as long as locks are given back in time; and a process that ends, however it ends, gives
// back its locks.
package flock

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
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

// turnSuffix ends the name of the file that is the turnstile before a lock.
const turnSuffix = ".turn"

// Take makes the file if it isn't there and locks it, waiting for others. Closing
// the file gives the lock back. A program that lives long keeps a Lock instead.
func Take(path string, mode Mode, wait time.Duration) (*os.File, error) {
	return New(path).Take(mode, wait)
}

// Lock is a file's lock, for a program that takes it again and again. Safe for
// concurrent use.
type Lock struct {
	path string
	// stuck counts those whose time was over while they were queued: each has a
	// thread that waits on. While there is one, others don't queue.
	stuck atomic.Int32
}

// New returns the lock of a file.
func New(path string) *Lock { return &Lock{path: path} }

// Path returns where the lock is.
func (l *Lock) Path() string { return l.path }

// Take makes the file if it isn't there and locks it, waiting for others. Closing
// the file gives the lock back.
//
// The kernel lets a new shared lock pass an exclusive one that waits. So everybody
// goes through a turnstile first, a lock on a file of its own, and stands in it
// until the lock is had: behind an exclusive one that waits nobody gets by.
func (l *Lock) Take(mode Mode, wait time.Duration) (*os.File, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	turn, err := l.take(l.path+turnSuffix, Exclusive, wait, timer.C)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	return l.take(l.path, mode, wait, timer.C)
}

// take locks one file.
func (l *Lock) take(path string, mode Mode, wait time.Duration, over <-chan time.Time) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = syscall.Flock(int(file.Fd()), int(mode)|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		if l.stuck.Load() == 0 {
			return l.queue(file, mode, wait, over)
		}
		select {
		case <-time.After(look):
		case <-over:
			return nil, errors.Join(timedOut(path, wait), file.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	return file, nil
}

// look is how often a lock is looked at that somebody has for very long.
const look = 20 * time.Millisecond

func timedOut(path string, wait time.Duration) error {
	return fmt.Errorf("lock %s: %w for %s", path, ErrTimeout, wait)
}

// queue waits for the lock on a thread of its own. After the time limit that
// thread goes on waiting, and gives the lock back when it gets it; it keeps nobody
// at the turnstile.
func (l *Lock) queue(file *os.File, mode Mode, wait time.Duration, over <-chan time.Time) (*os.File, error) {
	locked := make(chan error, 1)
	go func() { locked <- flock(int(file.Fd()), mode) }()
	select {
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		return file, nil
	case <-over:
		l.stuck.Add(1)
		go func() {
			locked <- errors.Join(<-locked, file.Close()) // nobody is left to be told
			l.stuck.Add(-1)
		}()
		return nil, timedOut(file.Name(), wait)
	}
}

func flock(fd int, mode Mode) error {
	for {
		if err := syscall.Flock(fd, int(mode)); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
