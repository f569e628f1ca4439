// SPDX-License-Identifier: Apache-2.0

// Package netns enters network namespaces. A namespace belongs to a thread, so
// what runs inside one runs on a locked thread that comes back afterwards.
//
//	ns, err := netns.Open("/run/netns/pod")
//	defer ns.Close()
//	err = ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", one, 0) })
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNotNamespace is matched by Open's error for a path that is no namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// own is the calling thread's namespace.
const own = "/proc/thread-self/ns/net"

// Namespace is an open network namespace. It lives at least until Close.
type Namespace struct{ file *os.File }

// Open opens the namespace at path. The error matches os.ErrNotExist if there
// is nothing, ErrNotNamespace if it is something else.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	ns := &Namespace{file: file}
	if err := ns.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace %s: %w", path, err), file.Close())
	}
	return ns, nil
}

func (n *Namespace) check() error {
	kind, err := unix.IoctlRetInt(n.FD(), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return ErrNotNamespace
	}
	return nil
}

// FD returns the descriptor that holds the namespace. It stays the namespace's.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Path returns the path that the namespace was opened by.
func (n *Namespace) Path() string { return n.file.Name() }

// Close lets the namespace go.
func (n *Namespace) Close() error { return n.file.Close() }

// IsOwn reports whether the calling thread is in the namespace.
func (n *Namespace) IsOwn() (bool, error) {
	theirs, err := n.file.Stat()
	if err != nil {
		return false, fmt.Errorf("stat network namespace: %w", err)
	}
	ours, err := os.Stat(own)
	if err != nil {
		return false, fmt.Errorf("stat own network namespace: %w", err)
	}
	return os.SameFile(theirs, ours), nil
}

// Do runs f in the namespace and returns f's error. Goroutines that f starts
// are not in it. A thread that can't be brought back is never used again.
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(own)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", n.Path(), err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace %s: %w", n.Path(), back)) // the thread stays locked
	}
	runtime.UnlockOSThread()
	return err
}
