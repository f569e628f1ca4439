// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attempt is one connection of a stream: when it was begun by the monotonic clock
// of the machine, how long it took, and what was wrong, if anything.
type attempt struct {
	To    string
	Begun time.Duration
	Took  time.Duration
	// Resent counts its packets that were sent again.
	Resent uint32
	Error  string `json:",omitempty"`
}

// stream begins a new connection to each address at every tick, whatever became
// of those before, until SIGTERM, and prints what became of each.
func stream(every time.Duration, addresses []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	var all sync.WaitGroup
	defer all.Wait()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		for _, to := range addresses {
			all.Go(func() {
				a := attempt{To: to, Begun: monotonic()}
				var err error
				if a.Resent, err = exchange(to); err != nil {
					a.Error = err.Error()
				}
				a.Took = monotonic() - a.Begun
				mu.Lock()
				defer mu.Unlock()
				_ = out.Encode(a) // a reader that is gone has enough
			})
		}
	}
}

// monotonic is the machine's monotonic clock, the same for all processes.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
