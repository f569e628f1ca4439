// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestNeverTwo plays random sequences of faults: PB_FAULTS of them, 4 unless
// told otherwise, beginning with seed PB_SEED, on NODES nodes. While switches are cut, processes
// stopped and all of it healed, never two nodes answer for one address but for
// 200 ms from the first moment that both can reach the clients.
func TestNeverTwo(t *testing.T) {
	isolated(t, func(t *testing.T) {
		count, seed, nodes := number(t, "PB_FAULTS", 4), number(t, "PB_SEED", int(time.Now().Unix())), number(t, "NODES", 3)
		l := raise(t, nodes)
		bad := 0
		for i := range count {
			s := NewSequence(uint64(seed+i), nodes)
			if wrong := l.Play(s); len(wrong) > 0 {
				bad++
				t.Errorf("PB_SEED=%d: %s", s.Seed, strings.Join(wrong, "\n"))
			}
		}
		t.Logf("%d sequences from seed %d, %d wrong, %d questions asked", count, seed, bad, len(l.Observer.questions))
	})
}

func TestSequenceIsOfItsSeed(t *testing.T) {
	for seed := range uint64(100) {
		a, b := NewSequence(seed, 3), NewSequence(seed, 3)
		for i := range a.Steps {
			if a.Steps[i].What != b.Steps[i].What || a.Steps[i].Wait != b.Steps[i].Wait {
				t.Fatalf("seed %d, step %d: got %+v and %+v", seed, i, a.Steps[i], b.Steps[i])
			}
		}
	}
}
