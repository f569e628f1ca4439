// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// The gate lets any number of ADDs in, or one GC: a lease that is being made is
// in no list of valid attachments.
type passage int

const (
	shared passage = unix.LOCK_SH
	alone  passage = unix.LOCK_EX
)

// gateTimeout is how long an ADD waits for a GC, and the other way round.
const gateTimeout = 10 * time.Second

func (c *conf) gate() string { return filepath.Join(filepath.Dir(c.AgentSocket), "cni.lock") }

// enter passes the gate. Closing the file leaves it, and so does the end of
// the process. The error has CNI's code 11 if the wait was in vain.
func enter(path string, how passage) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open lock %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	deadline := time.Now().Add(gateTimeout)
	for {
		err := unix.Flock(int(file.Fd()), int(how)|unix.LOCK_NB)
		switch {
		case err == nil:
			return file, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(types.NewError(types.ErrTryAgainLater, fmt.Sprintf("lock %s: held for %s", path, gateTimeout), ""), file.Close())
		}
		time.Sleep(5 * time.Millisecond)
	}
}
