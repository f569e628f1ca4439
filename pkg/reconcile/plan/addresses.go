// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
)

// Balanced is a Service with LoadBalancer addresses.
type Balanced struct {
	Name      string // namespace/name
	Addrs     []netip.Addr
	Local     bool     // packets stay on the node that they come to
	Nodes     []string // with ready endpoints
	Preferred []string // nodes, best first
	NICs      []string // names of NICs to announce on; empty: any external one
}

// Pool is a pool of LoadBalancer addresses.
type Pool struct {
	Name     string
	Contains func(netip.Addr) bool
	Selects  func(nodeLabels map[string]string) bool // nil: all nodes
}

// Wish is an address that must be answered for, with what the Services that
// share it ask for.
type Wish struct {
	announce.Request
	Pool     string
	Services []string
	NICs     []string // names; empty: any external one
}

// Wishes are the addresses of Services that are in a pool of ours, in order.
func Wishes(services []Balanced, pools []Pool) []Wish {
	found := make(map[netip.Addr]*Wish)
	for _, s := range services {
		for _, addr := range s.Addrs {
			i := slices.IndexFunc(pools, func(p Pool) bool { return p.Contains(addr) })
			if i < 0 {
				continue
			}
			w := found[addr]
			if w == nil {
				w = &Wish{Request: announce.Request{Addr: addr, Selects: pools[i].Selects}, Pool: pools[i].Name}
				found[addr] = w
			}
			w.add(s)
		}
	}
	wishes := make([]Wish, 0, len(found))
	for _, addr := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		wishes = append(wishes, *found[addr])
	}
	return wishes
}

func (w *Wish) add(s Balanced) {
	w.Services = append(w.Services, s.Name)
	slices.Sort(w.Services)
	if s.Local && w.Local == nil {
		w.Local = append([]string{}, s.Nodes...)
	} else if s.Local {
		w.Local = slices.DeleteFunc(w.Local, func(n string) bool { return !slices.Contains(s.Nodes, n) })
	}
	if w.Preferred == nil {
		w.Preferred = s.Preferred
	}
	if w.NICs == nil {
		w.NICs = s.NICs
	}
}

// NIC picks the NIC to answer on: external, one of those named if any are, with
// carrier and an address on the network.
func (w *Wish) NIC(nics []nic.NIC) (nic.NIC, bool) {
	for _, n := range slices.SortedFunc(slices.Values(nics), func(x, y nic.NIC) int { return cmp.Compare(x.Index, y.Index) }) {
		named := len(w.NICs) == 0 || slices.Contains(w.NICs, n.Name)
		if named && n.Role&nic.External != 0 && n.Carrier && n.OnSubnet(w.Addr) {
			return n, true
		}
	}
	return nic.NIC{}, false
}
