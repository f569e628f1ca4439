// SPDX-License-Identifier: Apache-2.0

// Package ways has a node test the ways to the other nodes, and answer them:
// netdev/selftest says how.
package ways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/netdev/selftest"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/durable"
)

const (
	testSettle = 3 * time.Second  // after a change, for the nodes to come to rest
	testEvery  = 10 * time.Minute // without one
)

// Tester tests the ways to the other nodes. Make one with New.
type Tester struct {
	// Problem is told what is wrong with an object, or with nil that it is well.
	Problem func(object string, err error)

	path string // remembers, until the next boot, which offloads were switched off
	log  *slog.Logger

	mu    sync.Mutex
	ways  []selftest.Way
	known map[netip.Addr]bool
	wake  chan struct{}
}

// New returns a tester. At path it remembers what it switched off.
func New(path string, log *slog.Logger) *Tester {
	return &Tester{path: path, log: log, wake: make(chan struct{}, 1)}
}

// Part follows nodes and NICs.
func (s *Tester) Part() parts.Part {
	return parts.Part{Name: "selftest", Kinds: []source.Kind{source.KindNode, source.KindIPBlock}, Sync: s.sync}
}

func (s *Tester) sync(_ context.Context, v parts.Objects) error {
	ways, known := waysTo(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = known
	if slices.Equal(ways, s.ways) {
		return nil
	}
	s.ways = ways
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// waysTo are the ways to the other nodes, over each network of ours and by the
// tunnel, and the addresses of all nodes.
func waysTo(v parts.Objects) (ways []selftest.Way, known map[netip.Addr]bool) {
	known = map[netip.Addr]bool{}
	for _, o := range source.List[*corev1.Node](v.Store, source.KindNode) {
		internal, tunnel := internalIPs(o), tunnelAddrs(v, o)
		for _, to := range slices.Concat(internal, tunnel) {
			known[to] = true
		}
		if o.Name == v.Node {
			continue
		}
		for _, n := range v.NICs {
			over, addrs := n.Role != nic.Ignored, internal
			if n.Name == netdev.TunnelName {
				over, addrs = true, tunnel
			}
			for _, to := range addrs {
				if from, ok := addrTowards(n.Link, to); ok && over && n.Carrier {
					ways = append(ways, selftest.Way{NIC: n.Name, MTU: n.MTU, From: from, To: to, Node: o.Name})
				}
			}
		}
	}
	return ways, known
}

func internalIPs(o *corev1.Node) (list []netip.Addr) {
	for _, a := range o.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			list = append(list, addr)
		}
	}
	return list
}

// tunnelAddrs are a node's on its tunnel, as far as pods' ranges tell.
func tunnelAddrs(v parts.Objects, o *corev1.Node) (list []netip.Addr) {
	ranges := o.Spec.PodCIDRs
	for _, b := range source.List[*v1alpha1.IPBlock](v.Store, source.KindIPBlock) {
		if b.Spec.Node == o.Name {
			ranges = append(slices.Clip(ranges), b.Spec.CIDR)
		}
	}
	for _, text := range ranges {
		p, err := netip.ParsePrefix(text)
		if addr, ok := plan.TunnelAddr(p); err == nil && ok {
			list = append(list, addr)
		}
	}
	return list
}

// addrTowards returns a link's address that packets to another have: that on its
// subnet, by the tunnel any of the family.
func addrTowards(l netdev.Link, to netip.Addr) (netip.Addr, bool) {
	for _, p := range l.Addrs {
		if p.Contains(to) && !p.IsSingleIP() || l.Name == netdev.TunnelName && p.Addr().Is4() == to.Is4() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// isKnown tells whether an address is a node's.
func (s *Tester) isKnown(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[a]
}

// Run answers other nodes and tests until ctx ends.
func (s *Tester) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return selftest.Serve(ctx, s.isKnown) })
	group.Go(func() error { return s.loop(ctx) })
	return group.Wait()
}

func (s *Tester) loop(ctx context.Context) error {
	s.recall()
	due := time.NewTimer(testEvery)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			due.Reset(testSettle)
		case <-due.C:
			s.test(ctx)
			due.Reset(testEvery)
		}
	}
}

// test goes all ways once.
func (s *Tester) test(ctx context.Context) {
	s.mu.Lock()
	ways := slices.Clone(s.ways)
	s.mu.Unlock()
	for _, w := range ways {
		if !inUse(w) {
			continue
		}
		o := selftest.Run(ctx, w)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("self-test", "nic", w.NIC, "node", w.Node, "to", w.To, "verdict", o.Verdict, "err", o.Err)
		if o.SwitchedOff {
			s.log.Warn("checksum offload switched off", "nic", w.NIC, "err", o.Err)
			s.remember(w.NIC, o.Err)
			continue
		}
		s.Problem(fmt.Sprintf("nic/%s to %s", w.NIC, w.To), o.Err)
	}
}

// inUse tells whether a way is the kernel's: a node is behind the tunnel or it isn't.
func inUse(w selftest.Way) bool {
	link, err := netdev.LinkIndex(w.NIC)
	return w.NIC != netdev.TunnelName || err == nil && link != 0 && netdev.Way(w.To) == link
}

// remember keeps for the next agents why an offload is off.
func (s *Tester) remember(name string, why error) {
	off := s.switchedOff()
	off[name] = why.Error()
	s.Problem("nic/"+name+" offload", why)
	err := durable.Replace(s.path, func(w io.Writer) error { return json.NewEncoder(w).Encode(off) })
	s.Problem("agent/self-test", err)
}

// recall says again what earlier agents switched off.
func (s *Tester) recall() {
	for name, why := range s.switchedOff() {
		if on, err := selftest.ChecksumOffload(name); err == nil && !on {
			s.Problem("nic/"+name+" offload", errors.New(why))
		}
	}
}

// switchedOff is what has been switched off since the boot.
func (s *Tester) switchedOff() map[string]string {
	off := map[string]string{}
	if text, err := os.ReadFile(s.path); err == nil {
		_ = json.Unmarshal(text, &off) // what can't be read is found again
	}
	return off
}
