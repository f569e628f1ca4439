// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
)

// opsEnv sets how many random operations are made; each is a process.
const opsEnv = "PATCHBAY_IPAM_OPS"

// oracle is the store as it must be: who has which addresses.
type oracle map[string][]netip.Addr

// TestRandomOperations makes random operations, each by a process that may be
// killed at any moment, and compares the store with an oracle after each: no
// address is two leases', none is held without one, and what was not killed did
// what it said. What was killed happened wholly or not at all, and once it is made
// again it has happened.
func TestRandomOperations(t *testing.T) {
	ops := 300
	if text := os.Getenv(opsEnv); text != "" {
		var err error
		if ops, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(7, uint64(ops)))
	path := filepath.Join(t.TempDir(), "leases.db")
	want := oracle{}
	kills, took := 0, 7*time.Millisecond
	for op := range ops {
		args := randomOp(r, want)
		if r.IntN(2) == 0 && killed(t, time.Duration(r.Int64N(int64(took)*5/4)), path, args) {
			kills++
		}
		start := time.Now()
		out, err := run(t, nil, append([]string{args[0], path}, args[1:]...)...)
		took = (7*took + time.Since(start)) / 8 // kills are to hit all of it, whatever else the machine does
		want.apply(t, op, args, out, err)
		want.compare(t, op, args, list(t, New(path, Options{})))
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d operations, %d of them killed first", ops, kills)
}

// randomOp chooses what to do.
func randomOp(r *rand.Rand, have oracle) []string {
	names := make([]string, 0, len(have))
	for name := range have {
		names = append(names, name)
	}
	slices.Sort(names)
	name := fmt.Sprint("c", r.IntN(60))
	switch n := r.IntN(10); {
	case n < 4:
		return []string{"dual", name}
	case n < 5:
		return []string{"fixed", name, fmt.Sprintf("10.1.0.%d", 1+r.IntN(60))}
	case n < 6 && len(names) > 0:
		return []string{"end", names[r.IntN(len(names))]}
	case n < 9 && len(names) > 0:
		return []string{"release", names[r.IntN(len(names))]}
	case len(names) > 4:
		keep := slices.DeleteFunc(names, func(string) bool { return r.IntN(8) == 0 })
		return append([]string{"gc"}, keep...)
	}
	return []string{"dual", name}
}

// killed starts an operation and kills it after some time; it tells whether it
// was in time.
func killed(t *testing.T, after time.Duration, path string, args []string) bool {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join(append([]string{args[0], path}, args[1:]...), " "))
	must(t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait() != nil && cmd.ProcessState.ExitCode() == -1
}

// apply takes an operation's result in.
func (o oracle) apply(t *testing.T, op int, args []string, out string, err error) {
	t.Helper()
	switch args[0] {
	case "end": // it is released some time later, or given again
		must(t, err)
	case "release":
		must(t, err)
		delete(o, args[1])
	case "gc":
		must(t, err)
		for name := range o {
			if !slices.Contains(args[1:], name) {
				delete(o, name)
			}
		}
	default:
		if err != nil {
			if !strings.Contains(err.Error(), ipam.ErrHeld.Error()) && !strings.Contains(err.Error(), ipam.ErrResting.Error()) &&
				!strings.Contains(err.Error(), ipam.ErrExhausted.Error()) {
				t.Fatalf("operation %d %v: %v", op, args, err)
			}
			return // as it was: compare shows
		}
		var addrs []netip.Addr
		for _, text := range strings.Fields(out) {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		if had, ok := o[args[1]]; ok && args[0] == "dual" && !slices.Equal(had, addrs) && len(had) == len(addrs) {
			t.Errorf("operation %d %v: got %v, want %v again", op, args, addrs, had)
		}
		o[args[1]] = addrs
	}
}

// compare compares the store with the oracle.
func (o oracle) compare(t *testing.T, op int, args []string, c Contents) {
	t.Helper()
	owners := map[netip.Addr]string{}
	for _, l := range c.Leases {
		want, ok := o[l.ContainerID]
		if !ok || l.Damaged || !slices.Equal(want, l.Addrs) {
			t.Errorf("operation %d %v: lease %s has %v, want %v", op, args, l.Key, l.Addrs, want)
		}
		for _, a := range l.Addrs {
			if owners[a] != "" {
				t.Errorf("operation %d %v: %s is %s's and %s's", op, args, a, owners[a], l.ContainerID)
			}
			owners[a] = l.ContainerID
		}
	}
	if len(c.Leases) != len(o) || len(c.Reserved) != 0 {
		t.Errorf("operation %d %v: %d leases, want %d; reserved %v", op, args, len(c.Leases), len(o), c.Reserved)
	}
	for _, rest := range c.Resting {
		if owners[rest.Addr] != "" {
			t.Errorf("operation %d %v: %s rests, and is %s's", op, args, rest.Addr, owners[rest.Addr])
		}
	}
}

// randomHelper does what the test's processes do: "dual path name", "fixed path
// name address", "end path name" or "gc path name…".
func randomHelper(args []string) error {
	s := New(args[1], Options{InUse: func() (map[netip.Addr]string, error) { return nil, nil }})
	if args[0] == "end" {
		_, err := s.End(Key{args[2], "eth0"})
		return err
	}
	v4, err4 := ipam.NewPool("4", ipam.Subnet{Prefix: netip.MustParsePrefix("10.1.0.0/26")})
	v6, err6 := ipam.NewPool("6", ipam.Subnet{Prefix: netip.MustParsePrefix("fd00::/122")})
	if err := errors.Join(err4, err6); err != nil {
		return err
	}
	if args[0] == "gc" {
		var keep []Key
		for _, name := range args[2:] {
			keep = append(keep, Key{name, "eth0"})
		}
		return s.GC("net", keep, func(Lease) error { return nil })
	}
	r := request(args[2], v4, v6)
	r.Lease.Network = "net"
	r.Rest = ipam.Rest{}
	if args[0] == "fixed" {
		r.Requested = []netip.Addr{netip.MustParseAddr(args[3])}
	}
	lease, err := s.Allocate(r)
	for _, a := range lease.Addrs {
		fmt.Println(a)
	}
	return err
}
