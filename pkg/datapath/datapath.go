// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/attach"
	"github.com/patchbay-net/patchbay/pkg/datapath/load"
	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// What goes into the maps and comes out of them.
type (
	NIC          = maps.NIC
	NICRole      = maps.NICRole
	Tunnel       = maps.Tunnel
	Endpoint     = maps.Endpoint
	Route        = maps.Route
	RouteKind    = maps.RouteKind
	Peer         = maps.Peer
	Announcement = maps.Announcement
	Drop         = maps.Drop
	Frontend     = services.Frontend
)

// The roles of a NIC and the kinds of routes.
const (
	Internal = maps.Internal
	External = maps.External

	RouteLocalPods    = maps.RouteLocalPods
	RouteNative       = maps.RouteNative
	RouteTunnel       = maps.RouteTunnel
	RouteService      = maps.RouteService
	RouteCluster      = maps.RouteCluster
	RouteUnmasquerade = maps.RouteUnmasquerade
	RouteSelf         = maps.RouteSelf
	RoutePods         = maps.RoutePods
)

var (
	// ErrInUse is returned while another process has the pin directory open.
	ErrInUse = load.ErrInUse
	// ErrSchema is returned if maps of another version are pinned.
	ErrSchema = load.ErrSchema
	// ErrNotAnnounced is returned by RenewAnnouncement for an address without an entry.
	ErrNotAnnounced = maps.ErrNotAnnounced
)

// Options are what Open needs to know.
type Options struct {
	PinDir   string            // on bpffs, e.g. /sys/fs/bpf/patchbay; its parent is mounted if need be
	Sizes    map[string]uint32 // entries by map, for maps that don't exist yet; the rest as in bpf/lib/maps.h
	Settings map[string]any    // volatile const variables of bpf/lib/config.h
	Log      *slog.Logger      // nil: none
}

// Datapath is the loaded programs and their maps.
type Datapath struct {
	log     *slog.Logger
	set     *load.Set
	filters *attach.Filters
	closed  atomic.Bool

	flowsUsed atomic.Int64
	lost      lostWatch

	settings map[string]any // as Open got them

	mu    sync.Mutex  // guards selfs, routes and what goes with a NIC
	selfs map[int]NIC // by index: their addresses are routes too
	route []Route     // as last set

	stopped    *stopped
	namespaces func() []string // of pods; nil: not known

	services      *services.Services
	endpoints     maps.Endpoints
	nics          maps.NICs
	routes        maps.Routes
	peers         maps.Peers
	announcements maps.Announcements
	config        maps.Config
	flows         maps.Flows
	drops         *maps.Drops
}

// Open loads the programs on the pinned maps, made if there are none, and
// replaces the programs of all hooks that an earlier process attached, in
// place. It returns ErrInUse or ErrSchema, and on any error leaves what runs
// running.
func Open(opts Options) (_ *Datapath, err error) {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	constants, err := constants(opts.Settings)
	if err != nil {
		return nil, err
	}
	set, err := load.Open(load.Options{PinDir: opts.PinDir, Sizes: opts.Sizes, Constants: constants, Log: log})
	if err != nil {
		return nil, fmt.Errorf("load datapath: %w", err)
	}
	d := &Datapath{
		log: log, set: set, selfs: map[int]NIC{}, settings: opts.Settings,
		endpoints:     maps.Endpoints{Map: set.Maps["endpoints"]},
		nics:          maps.NICs{Map: set.Maps["nics"]},
		routes:        maps.Routes{Map: set.Maps["routes"]},
		peers:         maps.Peers{Map: set.Maps["peers"]},
		announcements: maps.Announcements{Map: set.Maps["announced"]},
		config:        maps.Config{Map: set.Maps["config"]},
		flows:         maps.Flows{Map: set.Maps["flows"], Moved: set.Maps["moved"]},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := d.openOwners(opts); err != nil {
		return nil, err
	}
	if d.filters, err = attach.NewFilters(); err != nil {
		return nil, err
	}
	return d, d.replacePrograms()
}

func (d *Datapath) openOwners(opts Options) (err error) {
	m := d.set.Maps
	d.services, err = services.Open(services.Maps{
		Frontends: m["frontends"], Services: m["services"], Slots: m["slots"], Backends: m["backends"],
		SourceRanges: m["source_ranges"], Flows: m["flows"], FlowsNew: m["flows_new"],
	}, time.Now)
	if err != nil {
		return fmt.Errorf("open services: %w", err)
	}
	d.stopped = newStopped()
	d.services.OnStopped(d.stopped.add)
	if d.flows.Timeouts, err = maps.ReadTimeouts(opts.Settings); err != nil {
		return err
	}
	if d.drops, err = maps.NewDrops(m["drops"]); err != nil {
		return err
	}
	return d.readSelfs()
}

// Close closes everything here; the first call does. Programs, maps and what is
// in them stay in force.
func (d *Datapath) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	errs := []error{d.stopWatch()}
	if d.services != nil {
		errs = append(errs, d.services.Close())
	}
	if d.filters != nil {
		errs = append(errs, d.filters.Close())
	}
	return errors.Join(append(errs, d.set.Close())...)
}

// Run does what needs time: it expires flows, returns slots that have rested, and
// ends sockets whose endpoint stopped. It ends with ctx, and returns its error.
func (d *Datapath) Run(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.stopped.signal:
			d.endSockets()
		case <-ticker.C:
			d.services.Rest()
			d.expireFlows()
		}
	}
}

// expireFlows expires flows, and says when their table fills up. Full, it takes no
// more established flows in: they are served from the table of new ones, where a
// flood may take an entry; then the flow's next packet makes it again, by its hash.
func (d *Datapath) expireFlows() {
	_, used, err := d.flows.Expire()
	if err != nil {
		d.log.Error("expire flows", "err", err)
		return
	}
	size := int(d.flows.Map.MaxEntries())
	if before := int(d.flowsUsed.Swap(int64(used))); used*10 >= size*8 && before*10 < size*8 {
		d.log.Warn("the table of established flows is filling up", "entries", used, "size", size, "packetsWithoutRoom", d.FlowsWithoutRoom())
	}
}

// Flows returns how many entries the table of established flows had when it was
// last looked through, two for each flow, and how many it has room for.
func (d *Datapath) Flows() (used, size int) {
	return int(d.flowsUsed.Load()), int(d.flows.Map.MaxEntries())
}

// FlowsWithoutRoom returns how many packets the programs have counted whose flow
// is established and found no room in its table, since the maps were made.
func (d *Datapath) FlowsWithoutRoom() uint32 {
	packets, err := d.flows.WithoutRoom()
	if err != nil {
		d.log.Error("count flows", "err", err)
	}
	return packets
}

// SetServices makes the datapath balance exactly these frontends. What can't
// be done for one Service is reported, the rest is done: Refused takes the error
// apart.
func (d *Datapath) SetServices(entries []service.Entry) error {
	if err := d.services.Set(entries); err != nil {
		return fmt.Errorf("set services: %w", err)
	}
	return nil
}

// Refused returns what an error of SetServices says of single Services, for which
// there was no room and which are as they were, and the rest of it.
func Refused(err error) (map[service.Name]error, error) { return services.Refusals(err) }

// Frontends lists what is balanced now, as the maps have it.
func (d *Datapath) Frontends() []Frontend { return d.services.Frontends() }

// SetPeers makes these the nodes whose frames are taken for the cluster's.
func (d *Datapath) SetPeers(peers []Peer) error { return d.peers.Set(peers) }

// SetAnnouncements makes these the addresses that are answered for in ARP and
// NDP, each until its new expiry.
func (d *Datapath) SetAnnouncements(a []Announcement) error { return d.announcements.Set(a) }

// Announce has an address answered for in ARP and NDP, until its expiry.
func (d *Datapath) Announce(a Announcement) error { return d.announcements.Announce(a) }

// RenewAnnouncement gives one a new expiry. It returns ErrNotAnnounced if the
// address isn't announced: another node's claim ended it.
func (d *Datapath) RenewAnnouncement(a Announcement) error { return d.announcements.Renew(a) }

// Withdraw ends an announcement, if there is one.
func (d *Datapath) Withdraw(a Announcement) error { return d.announcements.Withdraw(a) }

// Announcements lists what is announced now: less than was set, if another
// node has claimed an address since.
func (d *Datapath) Announcements() ([]Announcement, error) { return d.announcements.List() }

// Drops lists what was dropped and why, since the maps were made.
func (d *Datapath) Drops() ([]Drop, error) { return d.drops.List() }

// program returns a program by name; all that hooks need exist in the objects.
func (d *Datapath) program(name string) (*ebpf.Program, error) {
	if watched := d.lost.instead.Load(); watched != nil && watched.Programs[name] != nil {
		return watched.Programs[name], nil
	}
	p, ok := d.set.Programs[name]
	if !ok {
		return nil, fmt.Errorf("program %s: not in any object", name)
	}
	return p, nil
}
