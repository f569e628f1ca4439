// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/ipam"
)

func pool(name string, ranges ...string) Pool {
	p := Pool{Name: name}
	for _, r := range ranges {
		prefix, bits, _ := strings.Cut(r, " ")
		n, err := strconv.Atoi(bits)
		if err != nil {
			panic(err)
		}
		p.Ranges = append(p.Ranges, Range{netip.MustParsePrefix(prefix), n})
	}
	return p
}

func block(node, prefix string) Block {
	return Block{Pool: "p", Node: node, Prefix: netip.MustParsePrefix(prefix)}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func show(r Result) []string {
	var out []string
	for _, b := range r.Create {
		out = append(out, fmt.Sprintf("+%s %s %s", b.Node, b.Pool, b.Prefix))
	}
	for _, b := range r.Change {
		out = append(out, fmt.Sprintf("~%s %s draining=%t", b.Node, b.Prefix, b.Draining))
	}
	for _, b := range r.Remove {
		out = append(out, fmt.Sprintf("-%s %s", b.Node, b.Prefix))
	}
	for node, err := range r.Reasons {
		out = append(out, fmt.Sprintf("!%s %v", node, err))
	}
	for node := range r.Short {
		out = append(out, "short "+node)
	}
	return out
}

func TestPlan(t *testing.T) {
	nodes := func(names ...string) []Node {
		var out []Node
		for _, n := range names {
			out = append(out, Node{Name: n})
		}
		return out
	}
	with := func(p Pool, f func(*Pool)) Pool { f(&p); return p }
	p := pool("p", "10.0.0.0/24 26")
	tests := []struct {
		name string
		in   Input
		want []string
	}{
		{"no pool", Input{Nodes: nodes("a")}, nil},
		{"the lowest free one for each", Input{Pools: []Pool{p}, Nodes: nodes("b", "a")}, []string{"+a p 10.0.0.0/26", "+b p 10.0.0.64/26"}},
		{"what it has, it keeps", Input{Pools: []Pool{p}, Nodes: nodes("a", "b"), Blocks: []Block{block("b", "10.0.0.0/26")}}, []string{"+a p 10.0.0.64/26"}},
		{"one that its pool has no more is drained", Input{Pools: []Pool{p}, Nodes: nodes("b"), Blocks: []Block{block("b", "10.9.0.0/26")}},
			[]string{"+b p 10.0.0.0/26", "~b 10.9.0.0/26 draining=true"}},
		{"a pool that can't be read keeps its own", Input{Pools: []Pool{{Name: "p", Unknown: true}}, Nodes: nodes("b"), Blocks: []Block{block("b", "10.9.0.0/26")}}, nil},
		{"two families", Input{Pools: []Pool{pool("p", "fd00::/64 122", "10.0.0.0/24 26")}, Nodes: nodes("a")}, []string{"+a p 10.0.0.0/26", "+a p fd00::/122"}},
		{"a range of its own", Input{Pools: []Pool{p}, Nodes: []Node{{Name: "a", IPv4: true}}, Taken: prefixes("10.0.0.0/24")}, nil},
		{"what others have is passed over", Input{Pools: []Pool{p}, Nodes: nodes("a"), Taken: prefixes("10.0.0.0/25", "10.0.0.130/32")}, []string{"+a p 10.0.0.192/26"}},
		{"exhausted", Input{Pools: []Pool{p}, Nodes: nodes("a"), Taken: prefixes("10.0.0.0/16")}, []string{"!a no free block: [pool p 10.0.0.0/24]", "short a"}},
		{"the next range of a pool", Input{Pools: []Pool{pool("p", "10.0.0.0/26 26", "10.0.1.0/26 26")}, Nodes: nodes("a", "b")}, []string{"+a p 10.0.0.0/26", "+b p 10.0.1.0/26"}},
		{"the highest priority first", Input{Pools: []Pool{p, with(pool("q", "10.1.0.0/24 26"), func(p *Pool) { p.Priority = 1 })}, Nodes: nodes("a")}, []string{"+a q 10.1.0.0/26"}},
		{"a disabled pool", Input{Pools: []Pool{with(p, func(p *Pool) { p.Disabled = true })}, Nodes: nodes("a")}, nil},
		{"a pool for other nodes", Input{Pools: []Pool{with(p, func(p *Pool) { p.Admits = func(n string) bool { return n == "b" } })}, Nodes: nodes("a", "b")}, []string{"+b p 10.0.0.0/26"}},
		{"a block of which nothing may be given", Input{Pools: []Pool{with(p, func(p *Pool) {
			p.Never = []ipam.Range{ipam.PrefixRange(netip.MustParsePrefix("10.0.0.0/26"))}
		})}, Nodes: nodes("a")}, []string{"+a p 10.0.0.64/26"}},
		{"a node that is gone", Input{Pools: []Pool{p}, Nodes: nodes("a"), Blocks: []Block{block("x", "10.0.0.0/26")}}, []string{"+a p 10.0.0.64/26", "-x 10.0.0.0/26"}},
		{"the end of the address space", Input{Pools: []Pool{pool("p", "255.255.255.0/24 25")}, Nodes: nodes("a"), Taken: prefixes("255.255.255.0/25", "255.255.255.128/25")},
			[]string{"!a no free block: [pool p 255.255.255.0/24]", "short a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, show(Plan(tt.in))); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
	r := Plan(Input{Pools: []Pool{p}, Nodes: nodes("a"), Taken: prefixes("10.0.0.0/16")})
	if !errors.Is(r.Reasons["a"], ErrExhausted) {
		t.Errorf("want ErrExhausted, got %v", r.Reasons["a"])
	}
}
