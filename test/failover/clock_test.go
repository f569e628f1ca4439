// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWallClock sets the machine's clock a day ahead and two days back, which no
// other test could bear: it runs in a guest only. Nothing moves.
func TestWallClock(t *testing.T) {
	if os.Getenv("PATCHBAY_GUEST") != "1" {
		t.Skip("sets the machine's clock: for guests only")
	}
	isolated(t, func(t *testing.T) {
		l := raise(t, 2)
		begin := Now()
		for _, jump := range []time.Duration{24 * time.Hour, -48 * time.Hour, 24 * time.Hour} {
			jumpClock(t, jump)
			time.Sleep(4 * time.Second) // that nothing happens takes its time
			l.settled(t, fmt.Sprintf("after the clock jumped by %v", jump))
		}
		for i, s := range l.Services {
			for _, addr := range s.Addrs() {
				if moves := l.Moves(addr, begin, Now()); len(moves) != 1 || moves[0] != l.machines[i].Name {
					t.Errorf("%s was answered by %v, want %s all along\n%s", addr, moves, l.machines[i].Name, l.History(addr, begin, Now()))
				}
			}
		}
	})
}

// settled fails the test unless every address is with its node.
func (l *Lab) settled(t *testing.T, when string) {
	t.Helper()
	for i, s := range l.Services {
		for _, addr := range s.Addrs() {
			if by := l.Observer.Answering(addr); by != l.machines[i].Name {
				t.Errorf("%s, %s is answered by %s, want %s", when, addr, by, l.machines[i].Name)
			}
		}
	}
}

// jumpClock sets the wall clock, as `date -s` does.
func jumpClock(t *testing.T, by time.Duration) {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		t.Fatal(err)
	}
	to := unix.NsecToTimespec(now.Nano() + int64(by))
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
		t.Fatal(err)
	}
}
