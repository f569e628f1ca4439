// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// writerEnv tells a re-executed test binary to be the writer of that store.
const writerEnv = "CUSTOM_ROUTES_WRITER"

// nth is the route that the writer adds n-th.
func nth(n int) Record {
	dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
	return Record{Route: Route{Interface: "eth1", Dst: dst, Metric: n + 1}}
}

// TestStoreOutlivesKills kills a process that adds routes at random instants: what
// it said was stored is there, and at most one more.
func TestStoreOutlivesKills(t *testing.T) {
	if path := os.Getenv(writerEnv); path != "" {
		s := Store{Path: path, Damaged: func(err error) { fmt.Println("damaged", err) }}
		records, err := s.List()
		for n := len(records); err == nil; n++ {
			err = s.Change(func(now []Record) []Record { return append(now, nth(n)) })
			fmt.Println("stored", n)
		}
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "routes.db")
	stored := 0
	for range 60 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestStoreOutlivesKills$")
		cmd.Env = append(os.Environ(), writerEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Millisecond+rand.N(40*time.Millisecond), func() { _ = cmd.Process.Kill() }) // the moment is the test's subject
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n := 0
			if _, err := fmt.Sscanf(lines.Text(), "stored %d", &n); err != nil {
				t.Fatalf("the writer says %q", lines.Text())
			}
			stored = n + 1
		}
		_ = cmd.Wait()
		got, err := Store{Path: path, Damaged: func(err error) { t.Errorf("damaged: %v", err) }}.List()
		if err != nil {
			t.Fatal(err)
		}
		if len(got) < stored || len(got) > stored+1 {
			t.Fatalf("%d routes are there, %d were stored", len(got), stored)
		}
		stored = len(got)
		slices.SortFunc(got, func(a, b Record) int { return a.Metric - b.Metric })
		for n, r := range got {
			if r != nth(n) {
				t.Fatalf("route %d: got %+v", n, r)
			}
		}
	}
	t.Logf("%d routes over 60 kills", stored)
}
