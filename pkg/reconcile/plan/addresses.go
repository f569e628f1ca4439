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

// Address is a LoadBalancer address and who answers for it.
type Address struct {
	Addr     netip.Addr
	Pool     string
	Services []string
	announce.Choice
	Link int    // index of the NIC that this node answers on, 0 if it doesn't
	NIC  string // and its name
}

// AddressInput is what addresses are planned from.
type AddressInput struct {
	Self     string
	Services []Balanced
	Pools    []Pool
	Nodes    []announce.Node
	Members  announce.Members
	NICs     []nic.NIC
}

// Addresses decides for each address of a Service that is in a pool of ours who
// answers for it, by address.
func Addresses(in AddressInput) []Address {
	requests := make(map[netip.Addr]*wish)
	for _, s := range in.Services {
		for _, addr := range s.Addrs {
			i := slices.IndexFunc(in.Pools, func(p Pool) bool { return p.Contains(addr) })
			if i < 0 {
				continue
			}
			w := requests[addr]
			if w == nil {
				w = &wish{Request: announce.Request{Addr: addr, Selects: in.Pools[i].Selects}, pool: in.Pools[i].Name}
				requests[addr] = w
			}
			w.add(s)
		}
	}
	out := make([]Address, 0, len(requests))
	for _, addr := range slices.SortedFunc(maps.Keys(requests), netip.Addr.Compare) {
		w := requests[addr]
		a := Address{Addr: addr, Pool: w.pool, Services: w.services, Choice: announce.Choose(w.Request, in.Nodes, in.Members)}
		if a.Owner == in.Self {
			a.answerOn(in.NICs, w.nics)
		}
		out = append(out, a)
	}
	return out
}

// wish joins what the Services that share an address ask for.
type wish struct {
	announce.Request
	pool     string
	services []string
	nics     []string
}

func (w *wish) add(s Balanced) {
	w.services = append(w.services, s.Name)
	slices.Sort(w.services)
	if s.Local && w.Local == nil {
		w.Local = append([]string{}, s.Nodes...)
	} else if s.Local {
		w.Local = slices.DeleteFunc(w.Local, func(n string) bool { return !slices.Contains(s.Nodes, n) })
	}
	if w.Preferred == nil {
		w.Preferred = s.Preferred
	}
	if w.nics == nil {
		w.nics = s.NICs
	}
}

// answerOn picks the NIC: external, with carrier and an address on the network.
func (a *Address) answerOn(nics []nic.NIC, names []string) {
	for _, n := range slices.SortedFunc(slices.Values(nics), func(x, y nic.NIC) int { return cmp.Compare(x.Index, y.Index) }) {
		wanted := len(names) == 0 && n.Role&nic.External != 0 || slices.Contains(names, n.Name) && n.Role != nic.Ignored
		if wanted && n.Carrier && n.OnSubnet(a.Addr) {
			a.Link, a.NIC = n.Index, n.Name
			return
		}
	}
	a.Reason += "; but this node has no such NIC to answer on"
}
