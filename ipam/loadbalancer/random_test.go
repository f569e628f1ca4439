// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// world is what is durable: Services with their status, and records.
type world struct {
	seconds  int
	services map[Name]Service
	records  []Record
	settled  map[Name][]netip.Addr // what Services had when all was written, and they weren't touched since
}

func (w *world) input(r *rand.Rand, pools []Pool) Input {
	in := Input{Now: at(w.seconds), Pools: slices.Clone(pools), Records: slices.Clone(w.records), Taken: addrs("192.0.2.5")}
	for _, s := range w.services {
		in.Services = append(in.Services, s)
	}
	r.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
	r.Shuffle(len(in.Records), func(i, j int) { in.Records[i], in.Records[j] = in.Records[j], in.Records[i] })
	return in
}

// write carries a result out, and dies after some of the writes.
func (w *world) write(result Result, writes int) {
	step := func() bool { writes--; return writes >= 0 }
	defer func() {
		if writes < 0 {
			return
		}
		for n, s := range w.services {
			w.settled[n] = s.Status
		}
	}()
	for _, rec := range result.Put {
		if step() {
			w.records = apply(w.records, Result{Put: []Record{rec}})
		}
	}
	for _, a := range result.Assignments {
		if s := w.services[a.Service]; !slices.Equal(s.Status, a.Addrs) && step() {
			s.Status = a.Addrs
			w.services[a.Service] = s
		}
	}
	for _, rec := range result.Release {
		if step() {
			w.records = apply(w.records, Result{Release: []Record{rec}})
		}
	}
	for _, addr := range result.Forget {
		if step() {
			w.records = apply(w.records, Result{Forget: []netip.Addr{addr}})
		}
	}
}

// mutate creates, deletes or changes a Service.
func (w *world) mutate(r *rand.Rand) {
	n := name(fmt.Sprint("s", r.IntN(8)))
	delete(w.settled, n)
	if _, ok := w.services[n]; ok && r.IntN(2) == 0 {
		delete(w.services, n)
		return
	}
	s := svc(n.Name)
	s.Created = at(w.seconds)
	if old, ok := w.services[n]; ok {
		s.Status, s.Created = old.Status, old.Created
	}
	s.IPv6 = r.IntN(3) == 0
	s.All = s.IPv6 && r.IntN(2) == 0
	if r.IntN(3) == 0 {
		s.Requested = addrs(fmt.Sprintf("192.0.2.%d", 1+r.IntN(9)))
	}
	if r.IntN(3) == 0 {
		s.SharingKey, s.Ports = "k", []Port{{6, uint16(80 + r.IntN(3))}}
	}
	w.services[n] = s
}

// TestPlanKilledAtRandom kills the controller after a random number of writes,
// again and again. Whatever happened: no status names an address that isn't
// its Service's by record, no address is in two statuses without a common key,
// and a Service that nobody touched keeps what it has.
func TestPlanKilledAtRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	pools := []Pool{pool(t, "a", "192.0.2.1-192.0.2.6", "fd00:c0::1-fd00:c0::4"), pool(t, "b", "192.0.2.7-192.0.2.8")}
	w := &world{services: map[Name]Service{}, settled: map[Name][]netip.Addr{}}
	for round := range 5000 {
		w.seconds += r.IntN(20)
		if r.IntN(2) == 0 {
			w.mutate(r)
		}
		in := w.input(r, pools)
		result := Plan(in)
		r.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
		if diff := cmp.Diff(show(result), show(Plan(in))); diff != "" {
			t.Fatalf("round %d: order of the input matters:\n%s", round, diff)
		}
		w.write(result, r.IntN(8))
		w.check(t, round)
	}
}

func (w *world) check(t *testing.T, round int) {
	t.Helper()
	by := map[netip.Addr]Record{}
	for _, rec := range w.records {
		by[rec.Addr] = rec
	}
	seen := map[netip.Addr]Name{}
	for n, s := range w.services {
		for _, addr := range w.settled[n] {
			if len(s.Requested) == 0 && !slices.Contains(s.Status, addr) {
				t.Fatalf("round %d: want %s to keep %v, got %v", round, n, w.settled[n], s.Status)
			}
		}
		for _, addr := range s.Status {
			if rec := by[addr]; rec.State != Active || !slices.Contains(rec.Owners, n) {
				t.Fatalf("round %d: status of %s names %s, of which the record is %+v", round, n, addr, rec)
			}
			if other, ok := seen[addr]; ok && by[addr].SharingKey == "" {
				t.Fatalf("round %d: %s has %s, and so has %s", round, n, addr, other)
			}
			seen[addr] = n
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n, " Services, first time"), func(b *testing.B) {
			in := Input{Now: at(0), Pools: []Pool{pool(b, "a", "fd00:c0::1-fd00:c0::ffff")}}
			for i := range n {
				in.Services = append(in.Services, svc(fmt.Sprint("s", i), func(s *Service) { s.IPv4, s.IPv6 = false, true }))
			}
			for b.Loop() {
				Plan(in)
			}
		})
	}
}
