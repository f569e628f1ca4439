// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/oracle"
)

const (
	statesOfChain  = 4
	packetsOfState = 40
)

// settings say how much TestPrograms tries. Isolated tests have no flags, so they
// are in the environment: PATCHBAY_ORACLE_SEED=1 (the first), and
// PATCHBAY_ORACLE_TIME=20s (when to stop).
func settings(t *testing.T) (seed uint64, limit time.Duration) {
	t.Helper()
	seed, limit = 1, 20*time.Second
	var err error
	if text := os.Getenv("PATCHBAY_ORACLE_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("PATCHBAY_ORACLE_TIME"); text != "" {
		if limit, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	return seed, limit
}

// follow takes a chain of states from a seed through packets, and returns the
// first differences.
func (n *node) follow(seed uint64, f fault) error {
	r := oracle.NewRandom(seed)
	c := n.newChain(f)
	state := r.State()
	j := n.judge(state)
	for i := range statesOfChain {
		if i > 0 {
			state = r.Change(state)
		}
		c.become(state)
		if f.name == "" {
			if err := exact(state, n.set.Maps); err != nil {
				return fmt.Errorf("seed %d, state %d: maps:\n%w", seed, i, err)
			}
		}
		var err error
		if j, err = j.continues(state); err != nil {
			return fmt.Errorf("seed %d, state %d: %w", seed, i, err)
		}
		for _, p := range r.Packets(state, packetsOfState) {
			if err := j.check(p); err != nil {
				return fmt.Errorf("seed %d, state %d: %w", seed, i, err)
			}
		}
		if err := j.covers(r, uint16(1024+enough*i)); err != nil {
			return fmt.Errorf("seed %d, state %d: %w", seed, i, err)
		}
	}
	if f.name != "" {
		return nil
	}
	// What the maps hold is read back as after a restart.
	again, err := services.Open(n.serviceMaps(), time.Now)
	n.must(err)
	defer again.Close()
	if err := differences(state, again.Frontends()); err != nil {
		return fmt.Errorf("seed %d: read back: %w", seed, err)
	}
	return nil
}

// TestPrograms compares the loaded programs, on maps that were written from
// Kubernetes' objects by the packages that do so on a node, with the oracle.
func TestPrograms(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		n := newNode(t)
		seed, limit := settings(t)
		begun := time.Now()
		tried, failed := 0, 0
		for ; time.Since(begun) < limit && failed < 5; seed++ {
			tried++
			if err := n.follow(seed, fault{}); err != nil {
				failed++
				t.Error(err)
			}
		}
		t.Logf("%d states, %d packets each, in %v", tried*statesOfChain, packetsOfState, time.Since(begun).Round(time.Millisecond))
	})
}

// TestSeeds are seeds that once failed; what they found has tests of its own too,
// for another Random makes other states of them.
func TestSeeds(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		n := newNode(t)
		for _, tt := range []struct {
			name string
			seed uint64
		}{
			{"a proxy's name that is empty", 3},
			{"an address twice in one slice", 376},
			{"the same with a policy Local", 395},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if err := n.follow(tt.seed, fault{}); err != nil {
					t.Error(err)
				}
			})
		}
	})
}
