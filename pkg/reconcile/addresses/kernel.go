// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
)

// kernel is a holder.Kernel: the datapath's entries and frames on the wire.
type kernel struct{ a *Addresses }

// Announce implements holder.Kernel.
func (k *kernel) Announce(addr netip.Addr, link int, expires time.Duration) error {
	return k.a.Datapath.Announce(datapath.Announcement{Addr: addr, IfIndex: link, Expires: expires})
}

// Renew implements holder.Kernel.
func (k *kernel) Renew(addr netip.Addr, link int, expires time.Duration) (bool, error) {
	err := k.a.Datapath.RenewAnnouncement(datapath.Announcement{Addr: addr, IfIndex: link, Expires: expires})
	if errors.Is(err, datapath.ErrNotAnnounced) {
		return false, nil
	}
	return true, err
}

// Withdraw implements holder.Kernel.
func (k *kernel) Withdraw(addr netip.Addr, link int) error {
	k.a.sender.Drop(addr)
	return k.a.Datapath.Withdraw(datapath.Announcement{Addr: addr, IfIndex: link})
}

// Claim implements holder.Kernel.
func (k *kernel) Claim(addr netip.Addr, link int) {
	k.a.sender.Claim(announce.Claim{Addr: addr, Link: link})
}

// Probe implements holder.Kernel.
func (k *kernel) Probe(addr netip.Addr, link int) {
	k.a.mu.Lock()
	k.a.probes = append(k.a.probes, question{addr, link})
	k.a.mu.Unlock()
	poke(k.a.probing)
}

func (a *Addresses) macOf(link int) [6]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.nics, func(n nic.NIC) bool { return n.Index == link }); i >= 0 {
		return a.nics[i].MAC
	}
	return [6]byte{}
}

// entries are what the kernel answers for now.
func (a *Addresses) entries() (map[netip.Addr]int, error) {
	list, err := a.Datapath.Announcements()
	if err != nil {
		return nil, err
	}
	out := make(map[netip.Addr]int, len(list))
	for _, e := range list {
		if e.Expires >= 0 {
			out[e.Addr] = e.IfIndex
		}
	}
	return out, nil
}

// may returns the claims that are still true.
func (a *Addresses) may(claims []announce.Claim) []announce.Claim {
	entries, err := a.entries()
	return slices.DeleteFunc(claims, func(c announce.Claim) bool { return err != nil || entries[c.Addr] == 0 || !a.Keeper.May(c.Addr) })
}

// question is an address that is asked for before it is taken over.
type question struct {
	addr netip.Addr
	link int
}

// gather is how long questions are collected that come together.
const gather = 2 * time.Millisecond

// answerProbes asks the network until ctx ends.
func (a *Addresses) answerProbes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.probing:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gather):
		}
		for link, addrs := range a.questions() {
			go a.ask(ctx, link, addrs)
		}
	}
}

// questions takes those that wait, by NIC.
func (a *Addresses) questions() map[int][]netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	byLink := map[int][]netip.Addr{}
	for _, q := range a.probes {
		byLink[q.link] = append(byLink[q.link], q.addr)
	}
	a.probes = nil
	return byLink
}

// ask asks for addresses on a NIC and tells the keeper what answered. That the
// network couldn't be asked keeps no address back.
func (a *Addresses) ask(ctx context.Context, link int, addrs []netip.Addr) {
	found, err := probe.Ask(ctx, link, addrs...)
	if ctx.Err() != nil {
		return
	}
	a.Note("agent/takeover probe", err)
	a.judge(addrs, found, a.Keeper.Probed, func(mac [6]byte) bool { return a.strange(ctx, link, mac) })
}

// judge tells what was found: first of the addresses that nobody has, as it takes
// its time to know a stranger. Each one is looked at once.
func (a *Addresses) judge(addrs []netip.Addr, found map[netip.Addr][6]byte, tell func(netip.Addr, [6]byte), strange func(mac [6]byte) bool) {
	var doubtful []netip.Addr
	for _, addr := range addrs {
		if mac := found[addr]; mac != ([6]byte{}) && !a.nodeHas(mac) {
			doubtful = append(doubtful, addr)
			continue
		}
		tell(addr, [6]byte{})
	}
	known := map[[6]byte]bool{}
	for _, addr := range doubtful {
		mac := found[addr]
		is, ok := known[mac]
		if !ok {
			is = strange(mac)
			known[mac] = is
		}
		if !is {
			mac = [6]byte{}
		}
		tell(addr, mac)
	}
}

// strange tells whether a MAC isn't that of a router that answers for everything.
func (a *Addresses) strange(ctx context.Context, link int, mac [6]byte) bool {
	a.mu.Lock()
	i := slices.IndexFunc(a.nics, func(n nic.NIC) bool { return n.Index == link })
	var subnets []netip.Prefix
	if i >= 0 {
		subnets = a.nics[i].Addrs
	}
	a.mu.Unlock()
	if a.Proxied == nil {
		return true
	}
	all, err := a.Proxied(ctx, link, subnets, mac)
	return err != nil || !all
}

// nodeHas tells whether a MAC is a node's, as the nodes or the objects say.
func (a *Addresses) nodeHas(mac [6]byte) bool {
	view := a.Heartbeat.View()
	states := append([]nodeState{}, view.Own.NICs...)
	for _, p := range view.Peers {
		states = append(states, p.State.NICs...)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.macs[mac] || slices.ContainsFunc(states, func(n nodeState) bool { return n.MAC == mac })
}
