// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/patchbay-net/patchbay/ipam/boot"
)

// DefaultReadyFile is where the agent notes that it is ready.
const DefaultReadyFile = "/run/patchbay/ready"

// ReadyInterval is how often a ready agent calls MarkReady.
const ReadyInterval = 10 * time.Second

// ErrNeverReady is returned by LastReady if no agent was ready since the boot.
var ErrNeverReady = errors.New("agent never ready since boot")

// readyMark is the ready file's content. It holds the boot's own time, so that
// a change of the wall clock makes nobody look absent.
type readyMark struct {
	BootID string        `json:"bootID"`
	Uptime time.Duration `json:"uptime"`
}

// MarkReady notes that the agent is ready now. The agent calls it when it gets
// ready and every ReadyInterval while it stays so. A CNI plugin that gets no
// answer from the agent judges by this file for how long it has been away.
func MarkReady(path string) error {
	id, err := boot.ID()
	if err != nil {
		return err
	}
	uptime, err := boot.Uptime()
	if err != nil {
		return err
	}
	text, err := json.Marshal(readyMark{BootID: id, Uptime: uptime})
	if err != nil {
		return fmt.Errorf("encode ready file %s: %w", path, err)
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write ready file %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write ready file %s: %w", path, err)
	}
	return nil
}

// LastReady returns how long ago the agent last noted that it was ready. It
// returns ErrNeverReady if it didn't since the boot.
func LastReady(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrNeverReady
	}
	if err != nil {
		return 0, fmt.Errorf("read ready file %s: %w", path, err)
	}
	var mark readyMark
	if err := json.Unmarshal(text, &mark); err != nil {
		return 0, fmt.Errorf("decode ready file %s: %w", path, err)
	}
	id, err := boot.ID()
	if err != nil {
		return 0, err
	}
	if mark.BootID != id {
		return 0, ErrNeverReady
	}
	uptime, err := boot.Uptime()
	if err != nil {
		return 0, err
	}
	return max(0, uptime-mark.Uptime), nil
}
