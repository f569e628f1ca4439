// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/headers"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestEveryProgram traces packets through each of the programs: the kernel takes
// every copy, and what can't be sent by a test ends where it should.
func TestEveryProgram(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.self.Exec(t, "ip", "route", "add", "10.244.3.0/24", "dev", "pb-vxlan")
		if err := l.d.SetServices(entries()); err != nil {
			t.Fatal(err)
		}
		c, node := l.places["c"], trace.FromNode
		tests := []struct {
			name    string
			packet  trace.Packet
			program string // the last
			end     trace.EndKind
			reason  string
		}{
			{"out of the tunnel, to a pod", trace.Packet{From: trace.FromTunnel, Node: addr("10.0.0.3"), Src: ap("10.244.3.5:1"), Dst: ap("10.244.1.10:9"), Proto: headers.TCP},
				"tc_tunnel_in", trace.EndPod, ""},
			{"out of the tunnel, of nobody", trace.Packet{From: trace.FromTunnel, Node: addr("10.0.0.9"), Src: ap("10.244.3.5:1"), Dst: ap("10.244.1.10:9"), Proto: headers.TCP},
				"tc_tunnel_in", trace.EndDropped, "forged-tunnel"},
			{"a node's pod in its own frame", trace.Packet{From: trace.FromNIC, Link: c.index, SrcMAC: c.mac, DstMAC: c.nodeMAC, Src: ap("10.244.3.5:1"), Dst: ap("10.244.1.10:9"), Proto: headers.TCP},
				"tc_uplink_in", trace.EndPod, ""},
			{"the node to its pod", trace.Packet{From: node, Src: ap("10.0.0.1:1"), Dst: ap("10.244.1.10:9"), Proto: headers.TCP}, "tc_pod_out", trace.EndPod, ""},
			{"the node to a pod on its link", trace.Packet{From: node, Src: ap("10.0.0.1:1"), Dst: ap("10.244.2.10:9"), Proto: headers.TCP}, "tc_uplink_out", trace.EndWire, ""},
			{"the node to a pod behind the tunnel", trace.Packet{From: node, Src: ap("10.0.0.1:1"), Dst: ap("10.244.3.10:9"), Proto: headers.TCP}, "tc_tunnel_out", trace.EndTunnel, ""},
			{"the node to a ClusterIP by packets", trace.Packet{From: node, Src: ap("192.0.2.1:1"), Dst: ap("10.96.0.1:80"), Proto: headers.TCP}, "tc_uplink_out", trace.EndPod, ""},
			{"the node to no ClusterIP", trace.Packet{From: node, Src: ap("192.0.2.1:1"), Dst: ap("10.96.9.9:80"), Proto: headers.TCP}, "tc_uplink_out", trace.EndDropped, "no-service"},
			{"the node to itself", trace.Packet{From: node, Src: ap("10.0.0.1:1"), Dst: ap("192.0.2.1:9"), Proto: headers.UDP}, "", trace.EndNode, ""},
			{"a pod to the outside, hop limit used up", trace.Packet{From: trace.FromPod, Link: l.places["pod1"].index, SrcMAC: l.places["pod1"].mac, DstMAC: l.places["pod1"].nodeMAC,
				Src: ap("10.244.1.10:1"), Dst: ap("203.0.113.5:9"), Proto: headers.UDP, TTL: 1}, "", trace.EndDropped, "ttl"},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				there, back := l.walk(t, test.packet)
				last := there.Hops[len(there.Hops)-1].Program
				if there.End.Kind != test.end || there.End.Reason != test.reason || last != test.program {
					t.Errorf("got %s %s by %q, want %s %s by %q:\n%s", there.End.Kind, there.End.Reason, last, test.end, test.reason, test.program, text(there))
				}
				delivered := slices.Contains([]trace.EndKind{trace.EndPod, trace.EndWire, trace.EndTunnel, trace.EndNode}, test.end)
				if delivered && (back == nil || back.End.Kind == trace.EndDropped) {
					t.Errorf("the answer: %s", text(back))
				}
			})
		}
		t.Run("socket", func(t *testing.T) {
			tracer, err := trace.Open(trace.Options{PinDir: pinDir})
			if err != nil {
				t.Fatal(err)
			}
			defer tracer.Close()
			s, err := tracer.Socket(ap("10.244.1.10:1"), ap("10.96.0.6:80"), headers.TCP, 0)
			if err != nil || !s.Found || s.Balanced || s.Why == "" || len(s.Backends) != 3 {
				t.Errorf("left to packets: %+v, %v", s, err)
			}
			const cookie = 77
			s, err = tracer.Socket(ap("10.244.1.10:1"), ap("10.96.0.7:80"), headers.TCP, cookie)
			if err != nil || !s.Balanced || s.Affinity != 3600 || s.Last.IsValid() || !slices.Contains(s.Backends, s.Example) {
				t.Errorf("the first time: %+v, %v", s, err)
			}
			remember(t, cookie, "10.96.0.7:80", s.Backends[2])
			if s, err = tracer.Socket(ap("10.244.1.10:1"), ap("10.96.0.7:80"), headers.TCP, cookie); err != nil || s.Last != s.Backends[2] {
				t.Errorf("later: %+v, %v", s, err)
			}
			if s, err := tracer.Socket(ap("10.244.1.10:1"), ap("10.96.7.7:80"), headers.TCP, 0); err != nil || s.Found {
				t.Errorf("no Service: %+v, %v", s, err)
			}
		})
	})
}

// remember writes what a connect() from a network namespace would have left.
func remember(t *testing.T, cookie uint64, frontend string, backend netip.AddrPort) {
	t.Helper()
	table := func(name string) *ebpf.Map {
		m, err := ebpf.LoadPinnedMap(pinDir+"/v1/maps/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	var fe objects.MapFrontend
	f := ap(frontend)
	if err := table("frontends").Lookup(objects.MapFrontendKey{Addr: objects.Addr(f.Addr()), Port: objects.Port(f.Port()), Proto: 6}, &fe); err != nil {
		t.Fatal(err)
	}
	key, found := objects.MapAffinityKey{Service: fe.Service}, uint32(0)
	binary.NativeEndian.PutUint64(key.Client.B[8:], cookie)
	backends := table("backends")
	for id := range uint32(200) {
		var b objects.MapBackend
		if backends.Lookup(id, &b) == nil && b.Service == fe.Service && b.Addr.Netip() == backend.Addr() && b.Port != 0 {
			found = id
		}
	}
	if err := table("affinities").Put(key, objects.MapAffinity{Backend: found}); err != nil {
		t.Fatal(err)
	}
}
