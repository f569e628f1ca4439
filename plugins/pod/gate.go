// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/ipam/flock"
)

// gateTimeout is how long an ADD waits for a GC, and the other way round.
const gateTimeout = 10 * time.Second

// enter passes the gate that lets any number of ADDs in, shared, or one GC: a
// lease that is being made is in no list of valid attachments. Closing the file
// leaves the gate. The error has CNI's code 11 if the wait was in vain.
func (c *conf) enter(mode flock.Mode) (*os.File, error) {
	path := filepath.Join(filepath.Dir(c.AgentSocket), "cni.lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open lock %s: %w", path, err)
	}
	file, err := flock.Take(path, mode, gateTimeout)
	if errors.Is(err, flock.ErrTimeout) {
		return nil, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return file, err
}
