// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/ipam"
)

// corrupt changes the stored record of a container.
func corrupt(t *testing.T, s *Store, container string) {
	t.Helper()
	key := Key{container, "eth0"}.bytes()
	err := s.transact(func(t *tables) error {
		value := append([]byte(nil), t.leases.Get(key)...)
		value[len(value)/2] ^= 0x40
		t.changed = true
		return t.leases.Put(key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRecord(t *testing.T) {
	var told []error
	s, _ := newStore(t, Options{Damaged: func(err error) { told = append(told, err) }})
	pools := dualStack(t)
	want := allocate(t, s, request("a", pools...)).Addrs
	allocate(t, s, request("b", pools...))
	corrupt(t, s, "a")

	contents := list(t, s)
	var record *RecordError
	if len(told) != 1 || !errors.As(told[0], &record) || record.Key.ContainerID != "a" {
		t.Errorf("told %v, want the record of a", told)
	}
	if len(contents.Leases) != 2 || !contents.Leases[1].Damaged || !cmp.Equal(contents.Leases[1].Addrs, want, cmpAddrs) {
		t.Errorf("leases = %+v, want b's, and a's as damaged with its addresses", contents.Leases)
	}
	for range 4 { // the rest of the pool
		lease := allocate(t, s, request(string(rune('c'+len(list(t, s).Leases))), pools...))
		if lease.Addrs[0] == want[0] {
			t.Errorf("%s was given again", want[0])
		}
	}
	if _, err := s.Allocate(request("z", pools...)); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("error = %v, want ErrExhausted", err)
	}
	if _, ok, err := s.Release(Key{"a", "eth0"}, 0); !ok || err != nil {
		t.Errorf("Release of the damaged lease = %t, %v", ok, err)
	}
	if resting := list(t, s).Resting; len(resting) != 2 || resting[0].Addr != want[0] {
		t.Errorf("resting = %v, want %v", resting, want)
	}
}

func TestDamagedRecordIsAdopted(t *testing.T) {
	s, _ := newStore(t, Options{})
	pools := dualStack(t)
	want := allocate(t, s, request("a", pools...)).Addrs
	corrupt(t, s, "a")
	if got := allocate(t, s, request("a", pools...)); !cmp.Equal(got.Addrs, want, cmpAddrs) {
		t.Errorf("addresses = %v, want %v kept", got.Addrs, want)
	}
	if leases := list(t, s).Leases; len(leases) != 1 || leases[0].Damaged {
		t.Errorf("leases = %+v, want one, whole", leases)
	}
}

func TestGCOfDamaged(t *testing.T) {
	inUse := map[netip.Addr]string{}
	s, _ := newStore(t, Options{InUse: func() (map[netip.Addr]string, error) { return inUse, nil }})
	pools := dualStack(t)
	for _, c := range []string{"a", "b", "c"} {
		lease := allocate(t, s, request(c, pools...))
		if c == "b" {
			inUse[lease.Addrs[0]] = lease.Key.Link()
		}
		corrupt(t, s, c)
	}
	if err := s.GC("net", []Key{{"c", "eth0"}}, func(Lease) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, l := range list(t, s).Leases {
		left = append(left, l.ContainerID)
	}
	if !cmp.Equal(left, []string{"b", "c"}) {
		t.Errorf("left = %v, want b, whose link is there, and c, which is valid", left)
	}
}

func TestDamagedFile(t *testing.T) {
	tests := []struct {
		name   string
		kept   bool // the record can still be read
		damage func(t *testing.T, path string)
	}{
		{"empty", false, func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) }},
		{"one page", false, func(t *testing.T, path string) { must(t, os.Truncate(path, 4096)) }},
		{"cut behind the metas", false, func(t *testing.T, path string) { must(t, os.Truncate(path, 8192)) }},
		{"cut behind the record", true, func(t *testing.T, path string) { must(t, os.Truncate(path, 9000)) }},
		{"no database", false, func(t *testing.T, path string) { must(t, os.WriteFile(path, make([]byte, 32768), 0o600)) }},
		{"text", false, func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("hello"), 0o600)) }},
		{"all but the metas noise", false, func(t *testing.T, path string) { overwrite(t, path, 8192, noise(65536)) }},
		{"metas zeroed", true, func(t *testing.T, path string) { overwrite(t, path, 0, make([]byte, 8192)) }},
		{"metas of noise", true, func(t *testing.T, path string) { overwrite(t, path, 0, noise(8192)) }},
		{"a bit", true, func(t *testing.T, path string) { overwrite(t, path, 4096+60, []byte{0xff}) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inUse := map[netip.Addr]string{}
			told := 0
			s, _ := newStore(t, Options{
				InUse:   func() (map[netip.Addr]string, error) { return inUse, nil },
				Damaged: func(error) { told++ },
			})
			pools := dualStack(t)
			lease := allocate(t, s, request("a", pools...))
			for _, a := range lease.Addrs {
				inUse[a] = lease.Key.Link()
			}
			test.damage(t, s.path)
			checkRebuilt(t, s, lease, pools, test.kept)
			if _, err := os.Stat(s.path + ".damaged"); err != nil || told != 1 {
				t.Errorf("told %d times, set aside: %v", told, err)
			}
		})
	}
}

// checkRebuilt checks that the lease's addresses are not given again, and that
// its key finds and releases them, whether its record was kept or lost.
func checkRebuilt(t *testing.T, s *Store, lease Lease, pools []ipam.Pool, kept bool) {
	t.Helper()
	next := allocate(t, s, request("b", pools...))
	if next.Addrs[0] == lease.Addrs[0] || next.Addrs[1] == lease.Addrs[1] {
		t.Errorf("addresses %v were given again: %v", lease.Addrs, next.Addrs)
	}
	if next.Generation < lease.Generation {
		t.Errorf("generation %d fell behind %d", next.Generation, lease.Generation)
	}
	if reserved := list(t, s).Reserved; len(reserved) != 0 && (kept || reserved[0].Link != lease.Key.Link()) {
		t.Errorf("reserved = %v, want the lost lease's at most", reserved)
	}
	found, ok, err := s.Find(lease.Key)
	if err != nil || !ok || found.Damaged == kept || !cmp.Equal(found.Addrs, lease.Addrs, cmpAddrs) {
		t.Errorf("Find = %+v, %t, %v, want the addresses, damaged %t", found, ok, err, !kept)
	}
	if _, ok, err := s.Release(lease.Key, 0); !ok || err != nil {
		t.Errorf("Release = %t, %v", ok, err)
	}
	if contents := list(t, s); len(contents.Reserved) != 0 || len(contents.Resting) != 2 {
		t.Errorf("contents = %+v, want nothing reserved", contents)
	}
}

func TestSalvage(t *testing.T) {
	s, c := newStore(t, Options{Durable: true})
	p := pool(t, "4", "10.0.0.0/24")
	want := map[string]netip.Addr{}
	for i := range 100 {
		name := fmt.Sprint("c", i)
		want[name] = allocate(t, s, request(name, p)).Addrs[0]
	}
	for i := range 30 { // these end, and others get their addresses
		name := fmt.Sprint("c", i)
		release(t, s, name)
		delete(want, name)
	}
	c.reboot()
	c.advance(time.Hour)
	for i := range 170 {
		name := fmt.Sprint("d", i)
		want[name] = allocate(t, s, request(name, p)).Addrs[0]
	}
	overwrite(t, s.path, 0, make([]byte, 8192))
	owners := map[netip.Addr]string{}
	for _, l := range list(t, s).Leases {
		if owner, ok := owners[l.Addrs[0]]; ok {
			t.Errorf("%s is leased to %s and %s", l.Addrs[0], owner, l.ContainerID)
		}
		owners[l.Addrs[0]] = l.ContainerID
	}
	for name, a := range want {
		if owners[a] != name {
			t.Errorf("%s is leased to %q, want %s", a, owners[a], name)
		}
	}
}

func TestRepair(t *testing.T) {
	inUse := map[netip.Addr]string{addrs("10.0.0.1")[0]: "pb1", addrs("10.0.0.2")[0]: "pb2"}
	s, _ := newStore(t, Options{InUse: func() (map[netip.Addr]string, error) { return inUse, nil }})
	list(t, s)
	must(t, os.Truncate(s.path, 100))
	if reserved := list(t, s).Reserved; len(reserved) != 2 {
		t.Fatalf("reserved = %v, want 2", reserved)
	}
	delete(inUse, addrs("10.0.0.1")[0])
	for range 2 {
		must(t, s.GC("net", nil, func(Lease) error { return nil }))
	}
	contents := list(t, s)
	if len(contents.Reserved) != 1 || contents.Reserved[0].Link != "pb2" || len(contents.Resting) != 1 {
		t.Errorf("contents = %+v, want pb2's address alone reserved", contents)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, offset int64, with []byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt(with, offset)
	must(t, errors.Join(err, file.Close()))
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.UintN(256))
	}
	return out
}

func FuzzDecodeRecord(f *testing.F) {
	lease := Lease{Key: Key{"a", "eth0"}, Addrs: addrs("10.0.0.1")}
	value, err := encodeRecord(lease)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lease.Key.bytes(), value)
	f.Add([]byte("x"), []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		got, err := decodeRecord(key, value)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("error = %v, want errRecord", err)
			}
			return
		}
		if string(got.Key.bytes()) != string(key) {
			t.Errorf("key = %q, want %q", got.Key.bytes(), key)
		}
	})
}

// FuzzFile flips bytes of a store's file: whatever comes of it, the store
// answers, and never gives an address of a lease that it still lists.
func FuzzFile(f *testing.F) {
	f.Add(uint16(0), byte(1), uint16(9000), byte(255))
	f.Add(uint16(4096+40), byte(1), uint16(40), byte(8))
	f.Fuzz(func(t *testing.T, at1 uint16, flip1 byte, at2 uint16, flip2 byte) {
		s, _ := newStore(t, Options{InUse: func() (map[netip.Addr]string, error) { return nil, nil }})
		pools := dualStack(t)
		allocate(t, s, request("a", pools...))
		text, err := os.ReadFile(s.path)
		must(t, err)
		text[int(at1)%len(text)] ^= flip1
		text[int(at2)%len(text)] ^= flip2
		must(t, os.WriteFile(s.path, text, 0o600))
		contents, err := s.List()
		if err != nil {
			return // refused, for example another schema: clear, and nothing given
		}
		next, err := s.Allocate(request("b", pools...))
		if err != nil {
			return
		}
		for _, l := range contents.Leases {
			if !l.Damaged && (l.Addrs[0] == next.Addrs[0] || l.Addrs[1] == next.Addrs[1]) {
				t.Errorf("%v was given again to %+v", l.Addrs, next)
			}
		}
	})
}
