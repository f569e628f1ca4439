// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/flock"
)

// clock is a boot that the test turns.
type clock struct{ at instant }

func (c *clock) now() (instant, error) { return c.at, nil }

func (c *clock) advance(d time.Duration) { c.at.uptime += d }

func (c *clock) reboot() { c.at.bootID += "+"; c.at.uptime = time.Second }

func newClock() *clock {
	return &clock{instant{bootID: "boot", uptime: time.Hour, wall: time.Unix(1e9, 0).UTC()}}
}

// newStore returns a store in the test's directory and what turns its clock.
func newStore(t testing.TB, options Options) (*Store, *clock) {
	t.Helper()
	c := newClock()
	s := New(filepath.Join(t.TempDir(), "leases.db"), options)
	s.now = c.now
	return s, c
}

func pool(t testing.TB, name, cidr string) ipam.Pool {
	t.Helper()
	p, err := ipam.NewPool(name, ipam.Subnet{Prefix: netip.MustParsePrefix(cidr)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func dualStack(t testing.TB) []ipam.Pool {
	return []ipam.Pool{pool(t, "4", "10.0.0.0/29"), pool(t, "6", "fd00::/125")}
}

func request(container string, pools ...ipam.Pool) Request {
	return Request{Pools: pools, Rest: ipam.DefaultRest(), Lease: Lease{Key: Key{container, "eth0"}, Network: "net"}}
}

func allocate(t testing.TB, s *Store, r Request) Lease {
	t.Helper()
	lease, err := s.Allocate(r)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func release(t testing.TB, s *Store, container string) {
	t.Helper()
	if _, _, err := s.Release(Key{container, "eth0"}, 0); err != nil {
		t.Fatal(err)
	}
}

func list(t testing.TB, s *Store) Contents {
	t.Helper()
	contents, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var cmpAddrs = cmpopts.EquateComparable(netip.Addr{})

func TestAllocateAndRelease(t *testing.T) {
	s, c := newStore(t, Options{})
	pools := dualStack(t)
	got := allocate(t, s, request("a", pools...))
	want := Lease{
		Key: Key{"a", "eth0"}, Network: "net", Addrs: addrs("10.0.0.1", "fd00::1"),
		Generation: uint64(time.Hour.Milliseconds()), BootID: "boot", Created: c.at.wall,
	}
	if diff := cmp.Diff(want, got, cmpAddrs); diff != "" {
		t.Errorf("lease (-want +got):\n%s", diff)
	}
	found, ok, err := s.Find(want.Key)
	if diff := cmp.Diff(want, found, cmpAddrs); diff != "" || !ok || err != nil {
		t.Errorf("Find: %t, %v (-want +got):\n%s", ok, err, diff)
	}
	if next := allocate(t, s, request("b", pools...)); next.Generation <= got.Generation || next.Addrs[0] != addrs("10.0.0.2")[0] {
		t.Errorf("second lease = %+v, want the next address and a higher generation", next)
	}
	ended, ok, err := s.Release(want.Key, 0)
	if err != nil || !ok || ended.Generation != want.Generation {
		t.Errorf("Release = %+v, %t, %v", ended, ok, err)
	}
	if _, ok, err := s.Release(want.Key, 0); ok || err != nil {
		t.Errorf("Release again = %t, %v, want nothing", ok, err)
	}
	c.advance(7 * time.Second)
	contents := list(t, s)
	wantResting := []Resting{{addrs("10.0.0.1")[0], 7 * time.Second}, {addrs("fd00::1")[0], 7 * time.Second}}
	if diff := cmp.Diff(wantResting, contents.Resting, cmpAddrs); diff != "" || len(contents.Leases) != 1 {
		t.Errorf("%d leases, resting (-want +got):\n%s", len(contents.Leases), diff)
	}
}

func TestAllocateAgain(t *testing.T) {
	s, _ := newStore(t, Options{})
	pools := dualStack(t)
	first := allocate(t, s, request("a", pools...))
	again := allocate(t, s, request("a", pools...))
	if diff := cmp.Diff(first.Addrs, again.Addrs, cmpAddrs); diff != "" {
		t.Errorf("same request (-first +again):\n%s", diff)
	}
	only4 := allocate(t, s, request("a", pools[0]))
	if len(only4.Addrs) != 1 || only4.Addrs[0] == first.Addrs[0] {
		t.Errorf("other pools: %v, want one address, not the one that rests", only4.Addrs)
	}
	fixed := request("a", pools...)
	fixed.Requested = addrs("10.0.0.6", "fd00::6")
	if got := allocate(t, s, fixed); !cmp.Equal(got.Addrs, fixed.Requested, cmpAddrs) {
		t.Errorf("requested: %v, want %v", got.Addrs, fixed.Requested)
	}
	if contents := list(t, s); len(contents.Leases) != 1 {
		t.Errorf("leases = %+v, want one", contents.Leases)
	}
}

func TestAllOrNothing(t *testing.T) {
	s, c := newStore(t, Options{})
	four, six := pool(t, "4", "10.0.0.0/29"), pool(t, "6", "fd00::5/128")
	allocate(t, s, request("a", four, six))
	if _, err := s.Allocate(request("b", four, six)); !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "pool 6") {
		t.Errorf("error = %v, want ErrExhausted of pool 6", err)
	}
	contents := list(t, s)
	if len(contents.Leases) != 1 || len(contents.Resting) != 0 {
		t.Errorf("contents = %+v, want the first lease alone", contents)
	}
	release(t, s, "a")
	if _, err := s.Allocate(request("b", four, six)); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("right after the release: %v, want ErrExhausted", err)
	}
	c.advance(5 * time.Second)
	allocate(t, s, request("b", four, six))
	if early := list(t, s).Early; early != 1 {
		t.Errorf("early = %d, want 1", early)
	}
}

func TestRequestedRefused(t *testing.T) {
	s, _ := newStore(t, Options{})
	pools := dualStack(t)
	held := allocate(t, s, request("a", pools...)).Addrs[0]
	release(t, s, allocate(t, s, request("b", pools...)).ContainerID)
	tests := []struct {
		name string
		addr netip.Addr
		want error
	}{
		{"held", held, ipam.ErrHeld},
		{"resting", held.Next(), ipam.ErrResting},
		{"outside", addrs("192.168.0.1")[0], ipam.ErrOutside},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request("c", pools...)
			r.Requested = []netip.Addr{test.addr}
			if _, err := s.Allocate(r); !errors.Is(err, test.want) {
				t.Errorf("error = %v, want %v", err, test.want)
			}
		})
	}
}

func TestReleaseGeneration(t *testing.T) {
	s, _ := newStore(t, Options{})
	old := allocate(t, s, request("a", dualStack(t)...))
	release(t, s, "a")
	allocate(t, s, request("a", dualStack(t)...))
	if _, ok, err := s.Release(old.Key, old.Generation); ok || err != nil {
		t.Errorf("late release = %t, %v, want nothing", ok, err)
	}
	if _, ok, _ := s.Find(old.Key); !ok {
		t.Error("a late release ended a later lease")
	}
}

func TestReboot(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable=%t", durable), func(t *testing.T) {
			s, c := newStore(t, Options{Durable: durable})
			pools := dualStack(t)
			allocate(t, s, request("a", pools...))
			release(t, s, allocate(t, s, request("b", pools...)).ContainerID)
			c.reboot()
			contents := list(t, s)
			wantLeases, wantResting := 0, 4
			if durable {
				wantLeases, wantResting = 1, 2
			}
			if len(contents.Leases) != wantLeases || len(contents.Resting) != wantResting {
				t.Errorf("contents = %+v, want %d leases, %d resting", contents, wantLeases, wantResting)
			}
			for _, r := range contents.Resting {
				if r.Rested != c.at.uptime {
					t.Errorf("%s rested %s, want %s", r.Addr, r.Rested, c.at.uptime)
				}
			}
			if got := allocate(t, s, request("c", pools...)); got.Addrs[0] != addrs("10.0.0.3")[0] {
				t.Errorf("after the boot: %v, want the cursor kept", got.Addrs)
			}
		})
	}
}

func TestFree(t *testing.T) {
	s, c := newStore(t, Options{})
	pools := dualStack(t)
	allocate(t, s, request("a", pools...))
	release(t, s, allocate(t, s, request("b", pools...)).ContainerID)
	free := func() uint64 {
		n, err := s.Free(pools[0], ipam.DefaultRest(), 100)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := free(); n != 4 {
		t.Errorf("free = %d, want 4 of 6: one held, one rests", n)
	}
	c.advance(5 * time.Second)
	if n := free(); n != 5 {
		t.Errorf("free after 5 s = %d, want 5", n)
	}
}

func TestBusy(t *testing.T) {
	s, _ := newStore(t, Options{Wait: 20 * time.Millisecond})
	list(t, s)
	held, err := flock.Take(s.path+".lock", flock.Exclusive, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); !errors.Is(err, ErrBusy) {
		t.Errorf("locked: %v, want ErrBusy", err)
	}
	held.Close()
	s.options.Wait = 2 * time.Second
	if _, err := s.List(); err != nil {
		t.Errorf("after the lock: %v", err)
	}
}

func TestGC(t *testing.T) {
	s, _ := newStore(t, Options{})
	pools := dualStack(t)
	for _, c := range []string{"a", "b", "c"} {
		allocate(t, s, request(c, pools...))
	}
	other := request("d", pools...)
	other.Lease.Network = "other"
	allocate(t, s, other)
	broken := errors.New("link busy")
	var ended []string
	err := s.GC("net", []Key{{"b", "eth0"}, {"a", "eth1"}}, func(l Lease) error {
		ended = append(ended, l.ContainerID)
		if l.ContainerID == "c" {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || !cmp.Equal(ended, []string{"a", "c"}) {
		t.Errorf("GC = %v, ended %v, want the error, and a and c", err, ended)
	}
	var left []string
	for _, l := range list(t, s).Leases {
		left = append(left, l.ContainerID)
	}
	if !cmp.Equal(left, []string{"b", "c", "d"}) {
		t.Errorf("left = %v, want b, c whose end failed, and d of another network", left)
	}
}

func TestSchema(t *testing.T) {
	s, _ := newStore(t, Options{})
	if err := s.transact(func(t *tables) error { return t.putNumber(metaSchema, 99) }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); err == nil || !strings.Contains(err.Error(), "schema 99") {
		t.Errorf("error = %v, want schema 99 named", err)
	}
	if _, err := os.Stat(s.path + ".damaged"); err == nil {
		t.Error("a newer store was taken for a damaged one")
	}
}

func TestUnreachable(t *testing.T) {
	s, _ := newStore(t, Options{})
	if err := os.Mkdir(s.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); err == nil || !strings.Contains(err.Error(), s.path) {
		t.Errorf("a directory in the place: %v, want an error that names it", err)
	}
	if info, err := os.Stat(s.path); err != nil || !info.IsDir() {
		t.Errorf("%v, %v, want the directory left alone", info, err)
	}
}

func BenchmarkAllocate(b *testing.B) {
	for _, present := range []int{0, 200} {
		b.Run(fmt.Sprintf("present=%d", present), func(b *testing.B) {
			s, _ := newStore(b, Options{})
			p := pool(b, "4", "10.0.0.0/16")
			for i := range present {
				allocate(b, s, request(fmt.Sprint("p", i), p))
			}
			for i := 0; b.Loop(); i++ {
				name := fmt.Sprint("c", i)
				allocate(b, s, request(name, p))
				release(b, s, name)
			}
		})
	}
}

func TestPorts(t *testing.T) {
	s, _ := newStore(t, Options{})
	pools := dualStack(t)
	with := func(container string, ports ...PortMapping) Request {
		r := request(container, pools...)
		r.Lease.Ports = ports
		return r
	}
	local := netip.MustParseAddr("127.0.0.1")
	allocate(t, s, with("a", PortMapping{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}))
	allocate(t, s, with("b", PortMapping{HostIP: local, HostPort: 81, ContainerPort: 8080, Protocol: "tcp"}))
	tests := []struct {
		name string
		port PortMapping
		want error
	}{
		{"taken", PortMapping{HostPort: 80, Protocol: "tcp"}, ErrPortHeld},
		{"taken on all addresses", PortMapping{HostIP: local, HostPort: 80, Protocol: "tcp"}, ErrPortHeld},
		{"taken on one", PortMapping{HostPort: 81, Protocol: "tcp"}, ErrPortHeld},
		{"other address", PortMapping{HostIP: local.Next(), HostPort: 81, Protocol: "tcp"}, nil},
		{"other protocol", PortMapping{HostPort: 80, Protocol: "udp"}, nil},
	}
	for _, test := range tests {
		if _, err := s.Allocate(with("c", test.port)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	again := allocate(t, s, with("a", PortMapping{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}))
	if found, _, _ := s.Find(again.Key); len(found.Ports) != 1 || found.Ports[0].ContainerPort != 8080 {
		t.Errorf("ports = %v, want the mapping kept", found.Ports)
	}
	release(t, s, "a")
	allocate(t, s, with("d", PortMapping{HostPort: 80, ContainerPort: 1, Protocol: "tcp"}))
}
