// SPDX-License-Identifier: Apache-2.0

package holder

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
)

// TestCutOff: of nodes that don't hear each other on the external network, those
// that most other machines answer to are on it, else the most nodes.
func TestCutOff(t *testing.T) {
	lan := netip.MustParsePrefix("192.0.2.0/24")
	for _, tt := range []struct {
		name    string
		groups  [][]string          // who hear each other
		outside []heartbeat.Outside // of each group
		cut     []string
	}{
		{"all together", [][]string{{"a", "b"}}, []heartbeat.Outside{1}, nil},
		{"one of two, nobody answers it", [][]string{{"a"}, {"b"}}, []heartbeat.Outside{0, 1}, []string{"a"}},
		{"one of two, its switch answers it", [][]string{{"a"}, {"b"}}, []heartbeat.Outside{1, 3}, []string{"a"}},
		{"two that can't be told apart", [][]string{{"a"}, {"b"}}, []heartbeat.Outside{1, 1}, nil},
		{"two alone", [][]string{{"a"}, {"b"}}, []heartbeat.Outside{0, 0}, nil},
		{"one of three", [][]string{{"a"}, {"b", "c"}}, []heartbeat.Outside{1, 1}, []string{"a"}},
		{"two of three, away from all else", [][]string{{"a"}, {"b", "c"}}, []heartbeat.Outside{3, 1}, []string{"b", "c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			v := heartbeat.View{At: now, Settled: true, Peers: map[string]heartbeat.Peer{}}
			for i, group := range tt.groups {
				for j, name := range group {
					n := heartbeat.NIC{Name: "eth1", External: true, Carrier: true, Outside: tt.outside[i],
						Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10*i + j + 1)}), lan.Bits())}}
					for o, other := range tt.groups {
						if o != i {
							n.Missed = append(n.Missed, other...)
						}
					}
					if s := (heartbeat.State{NICs: []heartbeat.NIC{n}}); name == "a" {
						v.Own = s
					} else {
						v.Peers[name] = heartbeat.Peer{Name: name, Agent: true, Known: true, State: s}
					}
				}
			}
			g := NewStandings("a")
			g.Judge(v, false)
			v.At = now.Add(bothSides)
			var cut []string
			for name, st := range g.Judge(v, false) {
				if len(st.Subnets) == 0 {
					cut = append(cut, name)
				}
			}
			if slices.Sort(cut); !slices.Equal(cut, tt.cut) {
				t.Errorf("cut off: %v, want %v", cut, tt.cut)
			}
		})
	}
}
