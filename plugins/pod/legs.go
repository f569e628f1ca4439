// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	pools "github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/pkg/netns"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// legAttempts bounds how often another address is tried because a machine on the
// switch has the one that was to be given.
const legAttempts = 4

// made is a leg as it was made.
type made struct {
	want  agentapi.Leg
	key   store.Key
	addrs []netip.Prefix
	ends  leg.Ends
}

// legStore is where the leases of legs are: with those of the pods.
func (c *conf) legStore(source addresses) *store.Store {
	if p, ok := source.(*inProcess); ok {
		return p.n.Store
	}
	return store.New(filepath.Join(filepath.Dir(c.AgentSocket), filepath.Base(store.PodLeases)), store.Options{InUse: podlink.Addrs, Damaged: note})
}

// addLegs makes the legs, one after the other. If it can't make one, it leaves
// none.
func (c *conf) addLegs(leases *store.Store, ns *netns.Namespace, wanted []agentapi.Leg) (legs []made, err error) {
	for _, want := range wanted {
		if err := leg.BridgeExists(want.Bridge); err != nil {
			return nil, legCode(err)
		}
	}
	for _, want := range wanted {
		m, err := c.addLeg(leases, ns, want)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("leg %s on %s: %w", want.IfName, want.Bridge, err), removeLegs(leases, legs))
		}
		legs = append(legs, m)
	}
	return legs, nil
}

// addLeg leases addresses and makes one leg with them.
func (c *conf) addLeg(leases *store.Store, ns *netns.Namespace, want agentapi.Leg) (made, error) {
	m := made{want: want, key: store.Key{ContainerID: c.key.ContainerID, IfName: want.IfName}}
	list, err := toPools(c.Name+"/"+want.Bridge, want.Pools)
	if err != nil {
		return m, err
	}
	host := leg.HostName(m.key.ContainerID, m.key.IfName)
	l := leg.Leg{HostName: host, Network: c.Name, Bridge: want.Bridge, Netns: ns.FD(), IfName: want.IfName, MTU: want.MTU, MAC: podlink.PodMAC(host), Guard: true, Probe: true}
	if mac, err := net.ParseMAC(want.MAC); err == nil {
		l.MAC = [6]byte(mac)
	}
	for attempt := 1; ; attempt++ {
		if m.addrs, err = c.leaseLeg(leases, m.key, want.Bridge, list); err != nil {
			return m, err
		}
		l.Addrs = m.addrs
		if err = leg.Remove(host); err == nil { // one that a killed ADD left
			m.ends, err = leg.Create(l)
		}
		if err == nil {
			return m, nil
		}
		_, _, undo := leases.Release(m.key, 0)
		if !errors.Is(err, leg.ErrInUse) || undo != nil || attempt == legAttempts {
			return m, errors.Join(legCode(err), undo)
		}
		note(err) // what was freed just now rests: the next attempt gets another
	}
}

// legCode gives an error of a leg the code that CNI has for it.
func legCode(err error) error {
	switch {
	case errors.Is(err, leg.ErrNoBridge):
		return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	case errors.Is(err, leg.ErrInUse):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return err
}

// leaseLeg gives a leg an address of each pool, with its network's length.
func (c *conf) leaseLeg(leases *store.Store, key store.Key, bridge string, list []pools.Pool) ([]netip.Prefix, error) {
	pod, err := ipam.ParsePod(c.args.Args)
	if err != nil {
		return nil, err
	}
	lease, err := leases.Allocate(store.Request{Pools: list, Rest: pools.DefaultRest(), Lease: store.Lease{
		Key: key, Network: c.Name, Switch: bridge, Primary: c.args.IfName, Netns: c.args.Netns,
		PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: pod.UID,
	}})
	if err != nil {
		return nil, err
	}
	out := make([]netip.Prefix, len(lease.Addrs))
	for i, a := range lease.Addrs {
		subnet, _ := list[i].Subnet(a)
		out[i] = netip.PrefixFrom(a, subnet.Prefix.Bits())
	}
	return out, nil
}

// removeLegs undoes addLegs.
func removeLegs(leases *store.Store, legs []made) error {
	var errs []error
	for _, m := range slices.Backward(legs) {
		errs = append(errs, endLeg(leases, m.key))
	}
	return errors.Join(errs...)
}

// endLeg takes a leg away, then its lease.
func endLeg(leases *store.Store, key store.Key) error {
	if err := leg.Remove(leg.HostName(key.ContainerID, key.IfName)); err != nil {
		return err
	}
	_, _, err := leases.Release(key, 0)
	return err
}

// delLegs takes away the legs that came with the interface, of the container's
// leases; whatever of them is there.
func (c *conf) delLegs(leases *store.Store, of []store.Lease) error {
	var errs []error
	for _, l := range slices.Backward(of) {
		if l.Switch != "" && l.Primary == c.args.IfName {
			errs = append(errs, endLeg(leases, l.Key))
		}
	}
	return errors.Join(errs...)
}

// checkLegs returns what is wrong with the legs.
func (c *conf) checkLegs(leases *store.Store, ns *netns.Namespace) error {
	of, err := leases.OfContainer(c.key.ContainerID)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range of {
		if l.Switch == "" || l.Primary != c.args.IfName {
			continue
		}
		want := leg.Leg{HostName: leg.HostName(l.ContainerID, l.IfName), Bridge: l.Switch, Netns: ns.FD(), IfName: l.IfName}
		for _, a := range c.previousOf(l.IfName) {
			want.Addrs = append(want.Addrs, a)
			if !slices.Contains(l.Addrs, a.Addr()) {
				errs = append(errs, fmt.Errorf("address %s of the previous result is not leased to %s", a.Addr(), l.Key))
			}
		}
		errs = append(errs, leg.Check(want))
	}
	return errors.Join(errs...)
}

// withLegs keeps the legs of valid attachments from a GC, which knows of the
// primary interfaces only.
func withLegs(leases *store.Store, valid []store.Key) ([]store.Key, error) {
	contents, err := leases.List()
	if err != nil {
		return nil, err
	}
	out := slices.Clone(valid)
	for _, l := range contents.Leases {
		if l.Switch != "" && slices.Contains(valid, store.Key{ContainerID: l.ContainerID, IfName: l.Primary}) {
			out = append(out, l.Key)
		}
	}
	return out, nil
}

// addLegsTo adds the legs to a result.
func (c *conf) addLegsTo(result *types100.Result, legs []made) {
	for _, m := range legs {
		result.Interfaces = append(result.Interfaces,
			&types100.Interface{Name: leg.HostName(m.key.ContainerID, m.key.IfName), Mac: net.HardwareAddr(m.ends.HostMAC[:]).String(), Mtu: m.ends.MTU},
			&types100.Interface{Name: m.want.IfName, Mac: net.HardwareAddr(m.ends.MAC[:]).String(), Mtu: m.ends.MTU, Sandbox: c.args.Netns})
		inside := len(result.Interfaces) - 1
		for _, p := range m.addrs {
			result.IPs = append(result.IPs, &types100.IPConfig{Interface: &inside, Address: prefix(p.Addr(), p.Bits())})
		}
	}
}
