// SPDX-License-Identifier: Apache-2.0

// Package addresses has this node answer for the LoadBalancer addresses that
// are its own to answer for. It joins what the objects say of them and of the
// nodes with what the nodes' agents tell each other, and holds the sockets. The
// rules are pkg/announce's; see there.
package addresses

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/wire"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// PartName is the part's name.
const PartName = "addresses"

// Datapath is what is asked of pkg/datapath.
type Datapath interface {
	Announce(datapath.Announcement) error
	RenewAnnouncement(datapath.Announcement) error
	Withdraw(datapath.Announcement) error
	Announcements() ([]datapath.Announcement, error)
}

// Options are what Addresses work with.
type Options struct {
	Node     string
	Port     uint16 // of heartbeats
	Key      []byte // of the cluster
	Expiry   time.Duration
	Datapath Datapath
	Log      *slog.Logger
	// Note is told what is wrong with something, and nil once it is well.
	Note func(object string, err error)
	// Suspect is told the nodes that are likely dead, after each change.
	Suspect func(map[string]bool)
	// NICs is told what the nodes' agents tell of their NICs, after each change.
	NICs func(map[string][]plan.RemoteNIC)
	// Moved is told of each address that came or went, if set.
	Moved func(holder.Address)
	// Proxied tells whether a MAC answers for any address: a router, no stranger.
	Proxied func(ctx context.Context, link int, subnets []netip.Prefix, mac [6]byte) (bool, error)
}

// Addresses are a node's part in answering. Make them with New.
type Addresses struct {
	Options
	Heartbeat *heartbeat.Heartbeat
	Keeper    *holder.Keeper
	wire      *wire.Wire
	sender    *announce.Sender
	probing   chan struct{} // there are questions
	relink    chan struct{}
	changed   chan struct{}

	linking sync.Mutex // held while NICs are read and told
	mu      sync.Mutex
	known   bool // the objects and the NICs are
	nics    []nic.NIC
	nodes   []announce.Node
	wishes  []plan.Wish
	roles   map[int]nic.Role
	groups  map[int][]netip.Addr // joined for, by NIC; the part's own
	shown   []plan.Wish
	choices map[netip.Addr]choice
	probes  []question // to be asked
	suspect map[string]bool
	remote  map[string][]plan.RemoteNIC // as told
	macs    map[[6]byte]bool            // of nodes, as the objects have them
}

// New returns addresses that are held already if an earlier agent's are.
func New(o Options) (*Addresses, error) {
	a := &Addresses{
		Options: o, wire: wire.New(o.Port, o.Log), probing: make(chan struct{}, 1), relink: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		groups: map[int][]netip.Addr{}, choices: map[netip.Addr]choice{},
	}
	a.sender = announce.NewSender(a.wire.Transmit, a.macOf, a.may, o.Log)
	a.Heartbeat = heartbeat.New(heartbeat.Options{
		Node: o.Node, Key: o.Key, Port: o.Port, Transport: a.wire, Log: o.Log, Changed: a.signal,
	})
	a.wire.Tell(a.Heartbeat)
	var err error
	a.Keeper, err = holder.NewKeeper(holder.Options{
		Node: o.Node, Heartbeat: a.Heartbeat, Kernel: &kernel{a}, Entries: a.entries, Plan: a.plan, Expiry: o.Expiry, Log: o.Log,
		Moved: o.Moved, Note: func(err error) { o.Note("agent/holder", err) },
	})
	if err != nil {
		return nil, err
	}
	if len(o.Key) == 0 {
		o.Log.Warn("gossip.keyFile isn't set: any machine on the nodes' networks can pretend to be a node, and move addresses")
	}
	return a, nil
}

// signal has the view looked at: by the keeper and by who waits for suspects.
func (a *Addresses) signal() {
	poke(a.changed)
	if a.Keeper != nil {
		a.Keeper.Wake()
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Part hooks the addresses into the reconciler.
func (a *Addresses) Part() parts.Part {
	return parts.Part{
		Name: PartName, Sync: a.sync, Report: a.report, Early: true,
		Kinds: []source.Kind{source.KindService, source.KindEndpointSlice, source.KindNode, source.KindIPPool, source.KindIPAllocation, source.KindNodeNetworkState},
	}
}

// Relink has carriers and addresses looked at anew, at once: a part is run only
// after a pass.
func (a *Addresses) Relink() { poke(a.relink) }

// retry is how often sockets that can't be opened yet are tried again.
const retry = time.Second

// Run keeps the addresses until ctx ends. What is answered for then stays so.
func (a *Addresses) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Heartbeat.Run(ctx) })
	group.Go(func() error { return a.Keeper.Run(ctx) })
	group.Go(func() error { return a.sender.Run(ctx) })
	group.Go(func() error { return a.answerProbes(ctx) })
	group.Go(func() error { return a.follow(ctx) })
	return errors.Join(group.Wait(), a.wire.Close())
}

// follow looks at links when they change, and at who is likely dead.
func (a *Addresses) follow(ctx context.Context) error {
	again := time.NewTimer(retry)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
			view := a.Heartbeat.View()
			a.tellSuspects(view)
			a.tellNICs(view)
			continue
		case <-a.relink:
		case <-again.C:
		}
		err := a.relinkNow()
		a.Note("agent/heartbeat", err)
		if err != nil {
			again.Reset(retry)
		}
	}
}

// relinkNow reads the links, and opens sockets where there are none.
func (a *Addresses) relinkNow() error {
	a.linking.Lock()
	defer a.linking.Unlock()
	links, err := netdev.Links()
	if err != nil {
		return err
	}
	a.mu.Lock()
	var nics []nic.NIC
	for _, l := range links {
		if role := a.roles[l.Index]; role != nic.Ignored {
			nics = append(nics, nic.NIC{Link: l, Role: role})
		}
	}
	moved := renamed(a.nics, nics)
	a.nics = nics
	wanted := a.links()
	a.mu.Unlock()
	err = a.wire.Set(wanted)
	a.Heartbeat.SetLinks(wanted)
	stale := slices.DeleteFunc(a.Held(), func(c announce.Claim) bool { return !moved[c.Link] })
	if len(stale) > 0 {
		for _, c := range a.may(stale) {
			a.sender.Claim(c)
		}
	}
	a.Keeper.Wake()
	return err
}

// renamed are the NICs, by index, that have another MAC than before: what the
// network has learnt of the addresses on them is wrong.
func renamed(before, now []nic.NIC) map[int]bool {
	moved := map[int]bool{}
	for _, n := range now {
		moved[n.Index] = slices.ContainsFunc(before, func(o nic.NIC) bool { return o.Index == n.Index && o.MAC != n.MAC })
	}
	return moved
}

// links are the NICs as the heartbeat takes them, each with the address that
// its packets come from: an IPv4 one if it has any. The first internal one, or
// else the first, leads to nodes that are on no network of ours.
func (a *Addresses) links() []heartbeat.Link {
	var out []heartbeat.Link
	for _, n := range a.nics {
		i := slices.IndexFunc(n.Addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
		if i < 0 && len(n.Addrs) > 0 {
			i = 0
		}
		if i < 0 {
			continue
		}
		out = append(out, heartbeat.Link{Index: n.Index, Addr: n.Addrs[i].Addr(), NIC: heartbeat.NIC{
			Name: n.Name, External: n.Role&nic.External != 0, Carrier: n.Carrier && n.Up, MAC: n.MAC, Addrs: n.Addrs,
		}})
	}
	under := slices.IndexFunc(out, func(l heartbeat.Link) bool { return a.roles[l.Index]&nic.Internal != 0 })
	if len(out) > 0 {
		out[max(under, 0)].Underlay = true
	}
	return out
}

// tellSuspects names the nodes that are dead as far as can be told from here.
func (a *Addresses) tellSuspects(view heartbeat.View) {
	suspect := map[string]bool{}
	if view.Settled {
		for name, p := range view.Peers {
			if p.Node == heartbeat.Dead {
				suspect[name] = true
			}
		}
	}
	a.mu.Lock()
	same := maps.Equal(suspect, a.suspect)
	a.suspect = suspect
	a.mu.Unlock()
	if !same {
		a.Suspect(suspect)
	}
}

// tellNICs tells of the NICs of the nodes that are heard: they know sooner than
// the objects that one has another MAC, and without an API server. Without a key
// anybody could say so.
func (a *Addresses) tellNICs(view heartbeat.View) {
	remote := map[string][]plan.RemoteNIC{}
	for name, p := range view.Peers {
		if !p.Agent || !p.Known || len(a.Key) == 0 {
			continue
		}
		for _, n := range p.State.NICs {
			remote[name] = append(remote[name], plan.RemoteNIC{MAC: n.MAC, Addrs: n.Addrs, External: n.External, Carrier: n.Carrier})
		}
	}
	a.mu.Lock()
	same := reflect.DeepEqual(remote, a.remote)
	a.remote = remote
	a.mu.Unlock()
	if !same {
		a.NICs(remote)
	}
}

// leaveTime is how long an agent that ends waits for its addresses to be taken.
const leaveTime = 2 * time.Second

// Leave hands all addresses over before the agent ends, if there is a node that
// can take them. What nobody takes stays answered for. Run must still run.
func (a *Addresses) Leave() {
	a.Keeper.SetLeaving(true)
	for end := time.Now().Add(leaveTime); a.Keeper.Busy() && time.Now().Before(end); {
		time.Sleep(heartbeat.Interval / 10) //nolint:forbidigo // the process ends: nobody is left to wake it
	}
}
