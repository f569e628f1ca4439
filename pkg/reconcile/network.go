// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nat"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
)

// syncLinks gives the node's interfaces their roles, and those with one their
// settings and programs.
func (r *Reconciler) syncLinks() error {
	links, err := netdev.Links()
	if err != nil {
		return err
	}
	rules, err := nicRules(r.Config.NICs)
	if err != nil {
		return err
	}
	nics, unused := nic.Assign(links, rules, r.nicHints())
	r.problems.Note("config/nics", errors.Join(unused...))
	if !reflect.DeepEqual(nics, r.nics) {
		r.nics = nics
		r.mark(partNetwork | partServices | partRules)
		r.update(func(v *view) { v.nics = nics })
		r.others.MarkAll()
	}
	errs := []error{r.sysctls.EnableForwarding()}
	for _, n := range nics {
		r.problems.Note("nic/"+n.Name, warning(n))
		if n.Role != nic.Ignored {
			errs = append(errs, r.setNIC(n))
		}
	}
	return errors.Join(append(errs, r.removeNICs(nics))...)
}

func warning(n nic.NIC) error {
	if n.Warning == "" {
		return nil
	}
	return errors.New(n.Warning)
}

// setNIC prepares a NIC and hands it to the datapath, unless that has it as it
// is. A setting that can't be made doesn't keep the datapath from it.
func (r *Reconciler) setNIC(n nic.NIC) error {
	err := r.sysctls.PrepareNIC(n.Name)
	want := datapath.NIC{Index: n.Index, Name: n.Name, Role: datapath.NICRole(n.Role), MAC: n.MAC, MTU: n.MTU, Addrs: r.ownFirst(n.Addrs)}
	if had, ok := r.attached[n.Index]; !ok || !reflect.DeepEqual(had, want) {
		delete(r.attached, n.Index)
		setErr := r.Datapath.SetNIC(want)
		if setErr == nil {
			r.attached[n.Index] = want
		}
		err = errors.Join(err, setErr)
	}
	if err != nil {
		return fmt.Errorf("NIC %s: %w", n.Name, err)
	}
	return nil
}

// ownFirst returns a NIC's addresses, the node's InternalIP before others.
func (r *Reconciler) ownFirst(prefixes []netip.Prefix) []netip.Addr {
	hints := r.nicHints()
	addrs := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		addrs[i] = p.Addr()
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int {
		return cmp.Compare(slices.Index(hints.NodeAddrs, b), slices.Index(hints.NodeAddrs, a))
	})
	return addrs
}

// removeNICs takes the programs off what is no NIC of ours any more.
func (r *Reconciler) removeNICs(nics []nic.NIC) error {
	have, err := r.Datapath.NICs()
	if err != nil {
		return err
	}
	var errs []error
	for _, old := range have {
		if !slices.ContainsFunc(nics, func(n nic.NIC) bool { return n.Index == old.Index && n.Role != nic.Ignored }) {
			delete(r.attached, old.Index)
			errs = append(errs, r.Datapath.RemoveNIC(old.Index))
		}
	}
	return errors.Join(errs...)
}

func nicRules(list []config.NIC) ([]nic.Rule, error) {
	rules := make([]nic.Rule, len(list))
	for i, c := range list {
		role, err := nic.ParseRole(string(c.Role))
		if err != nil {
			return nil, fmt.Errorf("nics[%d]: %w", i, err)
		}
		rules[i] = nic.Rule{Name: c.Name, MAC: c.MAC, Subnet: c.Subnet, Role: role}
	}
	return rules, nil
}

// syncNetwork makes the ways to other nodes and their pods. Routes of the
// datapath go in before the kernel's: what the kernel forwards is checked.
func (r *Reconciler) syncNetwork() error {
	in := r.planInput()
	net := plan.Build(in)
	tunnelErr := r.syncTunnel(net)
	if r.tunnel.IfIndex != in.Tunnel {
		in.Tunnel = r.tunnel.IfIndex
		net = plan.Build(in)
	}
	r.await(net.Neighbours)
	macs, neighErr := netdev.SyncNeighbours(net.Neighbours)
	if macs != nil && !maps.Equal(macs, r.macs) {
		r.macs = keepOld(macs, r.macs, net.Neighbours)
		in.MACs = r.macs
		net = plan.Build(in)
	}
	errs := []error{tunnelErr, neighErr}
	for n, mac := range net.Fixed {
		errs = append(errs, netdev.SetNeighbour(n, mac))
	}
	errs = append(errs, r.Datapath.SetRoutes(net.Routes), r.Datapath.SetPeers(net.Peers), netdev.SyncRoutes(net.KernelRoutes))
	problems := make(map[string]error)
	for node, text := range net.Problems {
		problems["route/"+node] = errors.New(text)
	}
	r.problems.Replace("route/", problems)
	r.net = net
	r.mark(partRules)
	r.update(func(v *view) { v.net, v.nodes = net, in.Nodes })
	return errors.Join(errs...)
}

// keepOld adds what was known of wanted neighbours that don't answer just now:
// a node that reboots comes back with its MAC address, as a rule.
func keepOld(macs, old map[netdev.Neighbour][6]byte, wanted []netdev.Neighbour) map[netdev.Neighbour][6]byte {
	for _, n := range wanted {
		if mac, ok := old[n]; ok && macs[n] == [6]byte{} {
			macs[n] = mac
		}
	}
	return macs
}

func (r *Reconciler) await(neighbours []netdev.Neighbour) {
	awaited := make(map[netdev.Neighbour]bool, len(neighbours))
	for _, n := range neighbours {
		awaited[n] = true
	}
	r.mu.Lock()
	r.awaited = awaited
	r.mu.Unlock()
}

// syncTunnel makes the VXLAN device where a way needs it. It is never up without
// its programs. One that no way needs any more stays until the next boot: others
// may still send by it, and flows that began through it go on.
func (r *Reconciler) syncTunnel(net plan.Network) error {
	there, err := netdev.LinkIndex(netdev.TunnelName)
	if err != nil {
		return err
	}
	if there == 0 && !net.NeedTunnel {
		r.tunnel = datapath.Tunnel{}
		return r.Datapath.SetTunnel(r.tunnel)
	}
	vxlan := r.Config.Routing.VXLAN
	index, err := netdev.EnsureTunnel(r.sysctls, netdev.Tunnel{Port: vxlan.Port, MTU: net.TunnelMTU, Addrs: net.TunnelAddrs})
	if err != nil {
		return err
	}
	want := datapath.Tunnel{IfIndex: index, MTU: net.TunnelMTU, VNI: vxlan.VNI, Port: vxlan.Port}
	if want != r.tunnel {
		if err := r.Datapath.SetTunnel(want); err != nil {
			return err
		}
		r.tunnel = want
	}
	return netdev.RaiseTunnel()
}

// syncRules keeps the masquerade.
func (r *Reconciler) syncRules() error { return nat.Apply(r.net.NAT) }
