// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/ipam"
)

// said is a node that says how its blocks stand: used and free.
func said(name string, uses map[string]Use, wants ...Want) Node {
	n := Node{Name: name, Uses: map[netip.Prefix]Use{}, Wants: wants}
	for p, use := range uses {
		n.Uses[netip.MustParsePrefix(p)] = use
	}
	return n
}

func drained(b Block, revision int64) Block {
	b.Draining, b.Revision = true, revision
	return b
}

func TestGrowAndReturn(t *testing.T) {
	addr := netip.MustParseAddr
	p := pool("p", "10.0.0.0/24 26")
	asked := pool("q", "10.1.0.0/24 26")
	asked.OnRequest = true
	legs := Pool{Name: "q", OnRequest: true, Singles: []ipam.Range{{First: addr("192.0.2.10"), Last: addr("192.0.2.12")}}, Never: []ipam.Range{{First: addr("192.0.2.10"), Last: addr("192.0.2.10")}}}
	off := p
	off.Disabled = true
	one, two := block("a", "10.0.0.0/26"), block("a", "10.0.0.64/26")
	leg := Block{Pool: "q", Node: "a", Prefix: netip.MustParsePrefix("192.0.2.11/32")}
	tests := []struct {
		name string
		in   Input
		want []string
	}{
		{"enough", Input{Pools: []Pool{p}, Blocks: []Block{one}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 45, 17}})}}, nil},
		{"a quarter left", Input{Pools: []Pool{p}, Blocks: []Block{one}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 46, 16}})}}, []string{"+a p 10.0.0.64/26"}},
		{"given back when two quarters more are left", Input{Pools: []Pool{p}, Blocks: []Block{one, two}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 9, 53}, "10.0.0.64/26": {0, 0, 62}})}},
			[]string{"~a 10.0.0.64/26 draining=true"}},
		{"kept otherwise", Input{Pools: []Pool{p}, Blocks: []Block{one, two}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 19, 43}, "10.0.0.64/26": {0, 0, 62}})}}, nil},
		{"a used one is not given back", Input{Pools: []Pool{p}, Blocks: []Block{one, two}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 1, 61}, "10.0.0.64/26": {0, 1, 61}})}}, nil},
		{"drained, and not said yet", Input{Pools: []Pool{p}, Blocks: []Block{one, drained(two, 1)}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 9, 53}, "10.0.0.64/26": {0, 0, 62}})}}, nil},
		{"drained and empty", Input{Pools: []Pool{p}, Blocks: []Block{one, drained(two, 1)}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 9, 53}, "10.0.0.64/26": {1, 0, 62}})}}, []string{"-a 10.0.0.64/26"}},
		{"drained and used", Input{Pools: []Pool{p}, Blocks: []Block{one, drained(two, 1)}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 9, 53}, "10.0.0.64/26": {1, 1, 61}})}}, nil},
		{"needed again", Input{Pools: []Pool{p}, Blocks: []Block{one, drained(two, 1)}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 50, 12}, "10.0.0.64/26": {1, 0, 62}})}},
			[]string{"~a 10.0.0.64/26 draining=false"}},
		{"a disabled pool is drained, its node is told", Input{Pools: []Pool{off}, Blocks: []Block{one}, Nodes: []Node{said("a", map[string]Use{"10.0.0.0/26": {0, 9, 53}})}},
			[]string{"~a 10.0.0.0/26 draining=true", "!a no free block: no pool gives it another one", "short a"}},
		{"a pool on request", Input{Pools: []Pool{asked}, Nodes: []Node{said("a", nil)}}, nil},
		{"asked for", Input{Pools: []Pool{asked}, Nodes: []Node{said("a", nil, Want{Pool: "q", Count: 1})}}, []string{"+a q 10.1.0.0/26"}},
		{"given back when nobody asks", Input{Pools: []Pool{asked}, Blocks: []Block{{Pool: "q", Node: "a", Prefix: netip.MustParsePrefix("10.1.0.0/26")}}, Nodes: []Node{said("a", map[string]Use{"10.1.0.0/26": {0, 0, 62}})}},
			[]string{"~a 10.1.0.0/26 draining=true"}},
		{"a pool that isn't there", Input{Nodes: []Node{said("a", nil, Want{Pool: "x", Count: 1})}}, []string{`!a no free block: there is no pool "x"`}},
		{"single addresses, as many as wait", Input{Pools: []Pool{legs}, Nodes: []Node{said("a", nil, Want{Pool: "q", Count: 2})}}, []string{"+a q 192.0.2.11/32", "+a q 192.0.2.12/32"}},
		{"one too many", Input{Pools: []Pool{legs}, Nodes: []Node{said("a", nil, Want{Pool: "q", Count: 3})}},
			[]string{"+a q 192.0.2.11/32", "+a q 192.0.2.12/32", "!a no free block: [pool q 192.0.2.10-192.0.2.12]"}},
		{"a single address in use", Input{Pools: []Pool{legs}, Blocks: []Block{leg}, Nodes: []Node{said("a", map[string]Use{"192.0.2.11/32": {0, 1, 0}})}}, nil},
		{"a single address not in use", Input{Pools: []Pool{legs}, Blocks: []Block{leg}, Nodes: []Node{said("a", map[string]Use{"192.0.2.11/32": {0, 0, 1}})}}, []string{"~a 192.0.2.11/32 draining=true"}},
		{"a fixed address", Input{Pools: []Pool{asked}, Nodes: []Node{said("a", nil, Want{Addr: addr("10.1.0.9"), Count: 1})}}, []string{"+a q 10.1.0.9/32"}},
		{"of the node's own block", Input{Pools: []Pool{p}, Blocks: []Block{one}, Nodes: []Node{said("a", nil, Want{Addr: addr("10.0.0.9"), Count: 1})}}, nil},
		{"of another node's block", Input{Pools: []Pool{p}, Blocks: []Block{one, block("b", "10.0.0.64/26")}, Nodes: []Node{said("a", nil, Want{Addr: addr("10.0.0.70"), Count: 1}), {Name: "b"}}},
			[]string{"!a address can't be had here: 10.0.0.70: it is in block 10.0.0.64/26 of node b; fixed addresses belong into a pool with autoAssign: false"}},
		{"in use elsewhere", Input{Pools: []Pool{asked}, Blocks: []Block{{Pool: "q", Node: "b", Prefix: netip.MustParsePrefix("10.1.0.9/32")}},
			Nodes: []Node{said("a", nil, Want{Addr: addr("10.1.0.9"), Count: 1}), said("b", map[string]Use{"10.1.0.9/32": {0, 1, 0}})}},
			[]string{"!a address can't be had here: 10.1.0.9: it is in use on node b"}},
		{"no longer in use elsewhere", Input{Pools: []Pool{asked}, Blocks: []Block{{Pool: "q", Node: "b", Prefix: netip.MustParsePrefix("10.1.0.9/32")}},
			Nodes: []Node{said("a", nil, Want{Addr: addr("10.1.0.9"), Count: 1}), said("b", map[string]Use{"10.1.0.9/32": {0, 0, 1}})}},
			[]string{"~b 10.1.0.9/32 draining=true"}},
		{"a range of its own runs out", Input{Nodes: []Node{{Name: "a", IPv4: true, IPv6: true, Uses: map[netip.Prefix]Use{netip.MustParsePrefix("10.0.0.0/24"): {0, 246, 8}}}}},
			[]string{"!a no free block: 8 of 254 addresses of node.spec.podCIDRs are left", "short a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, show(Plan(tt.in))); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}
