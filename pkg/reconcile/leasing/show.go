// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/ipam/boot"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
)

// Show says how the node's addresses stand, and what doesn't fit together.
func (t *Table) Show(ctx context.Context, _ agentapi.None) (agentapi.IPAM, error) {
	contents, err := t.Leases.List()
	if err != nil {
		return agentapi.IPAM{}, err
	}
	out := agentapi.IPAM{Early: contents.Early, Blocks: []agentapi.IPAMBlock{}, Waiting: []agentapi.IPAMWait{}, Leaks: []agentapi.IPAMLeak{}}
	out.Blocks = append(out.Blocks, t.Blocks()...)
	t.mu.Lock()
	for key, w := range t.waiting {
		for _, one := range w.wants {
			out.Waiting = append(out.Waiting, agentapi.IPAMWait{EndpointKey: key, Pool: one.pool, Address: one.addr})
		}
	}
	t.mu.Unlock()
	slices.SortFunc(out.Waiting, func(a, b agentapi.IPAMWait) int {
		return strings.Compare(a.ContainerID+a.IfName+a.Pool+a.Address, b.ContainerID+b.IfName+b.Pool+b.Address)
	})
	out.Leaks, err = t.leaks(ctx, contents, out.Blocks)
	return out, err
}

// Blocks are the ranges that the node gives addresses out of.
func (t *Table) Blocks() []agentapi.IPAMBlock {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []agentapi.IPAMBlock
	for _, s := range t.states {
		prefix, _ := netip.ParsePrefix(s.CIDR) // we wrote it
		out = append(out, agentapi.IPAMBlock{Prefix: prefix, Pool: s.Pool, State: string(s.State), Revision: s.Revision, Used: s.Used, Free: s.Free})
	}
	return out
}

// leaks compares leases with links and blocks. An ADD or a DEL under way looks
// like a leak for as long as it takes.
func (t *Table) leaks(ctx context.Context, contents store.Contents, blocks []agentapi.IPAMBlock) ([]agentapi.IPAMLeak, error) {
	leaks := []agentapi.IPAMLeak{}
	links, err := netdev.PodLinks()
	if err != nil {
		return nil, err
	}
	routed, err := podlink.Addrs()
	if err != nil {
		return nil, err
	}
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	unknown, errRuntime := t.staleLeases(ctx)
	if errRuntime != nil {
		leaks = append(leaks, agentapi.IPAMLeak{Kind: "runtime", Text: errRuntime.Error()})
	}
	leased := map[string]bool{}
	for _, l := range contents.Leases {
		leased[l.Link()] = true
		text := t.wrong(l, links, blocks, bootID)
		if generation, ok := unknown[l.Key]; text == "" && ok && generation == l.Generation {
			text = "the runtime has no such sandbox; it is ended a minute after that was seen"
		}
		if text != "" {
			leaks = append(leaks, agentapi.IPAMLeak{Kind: "lease", Addrs: l.Addrs, Owner: l.Key.String(), Text: text})
		}
	}
	for name := range links {
		if !leased[name] {
			leaks = append(leaks, agentapi.IPAMLeak{Kind: "link", Addrs: addrsAt(routed, name), Owner: name, Text: "interface without a lease: of another IPAM plugin, or left behind; delete the pod"})
		}
	}
	for _, r := range contents.Reserved {
		leaks = append(leaks, agentapi.IPAMLeak{Kind: "record", Addrs: []netip.Addr{r.Addr}, Owner: r.Link, Text: "reserved, its lease was lost; free once the pod is gone"})
	}
	slices.SortFunc(leaks, func(a, b agentapi.IPAMLeak) int { return strings.Compare(a.Kind+a.Owner, b.Kind+b.Owner) })
	return leaks, nil
}

func addrsAt(routed map[netip.Addr]string, link string) []netip.Addr {
	var addrs []netip.Addr
	for a, name := range routed {
		if name == link {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// wrong says what is wrong with a lease, if anything.
func (t *Table) wrong(l store.Lease, links map[string]netdev.Link, blocks []agentapi.IPAMBlock, bootID string) string {
	if l.Damaged {
		return "its record is damaged; free once the pod is gone"
	}
	if l.BootID != bootID {
		return "it is of an earlier boot"
	}
	if l.Switch != "" {
		if there, err := leg.Exists(leg.HostName(l.ContainerID, l.IfName)); err == nil && !there {
			return "leg is not there; patchbayctl ipam release frees the address"
		}
		return ""
	}
	if _, there := links[l.Link()]; !there {
		return "interface is not there; patchbayctl ipam release frees the address"
	}
	for _, a := range l.Addrs {
		if !slices.ContainsFunc(blocks, func(b agentapi.IPAMBlock) bool { return b.Prefix.Contains(a) }) {
			return fmt.Sprintf("%s is in no block of this node; delete the pod to have it made anew", a)
		}
	}
	return ""
}

// Release ends leases by hand: of what is certainly gone, unless it is forced.
func (t *Table) Release(_ context.Context, r agentapi.IPAMRelease) ([]agentapi.Lease, error) {
	contents, err := t.Leases.List()
	if err != nil {
		return nil, err
	}
	links, err := netdev.PodLinks()
	if err != nil {
		return nil, err
	}
	out := []agentapi.Lease{}
	for _, l := range contents.Leases {
		if l.ContainerID != r.Container && !slices.Contains(l.Addrs, r.Address) {
			continue
		}
		_, there := links[l.Link()]
		if l.Switch != "" {
			if there, err = leg.Exists(leg.HostName(l.ContainerID, l.IfName)); err != nil {
				return out, err
			}
		}
		if there && !r.Force {
			return out, agentapi.Errorf(agentapi.CodeInvalid, "%s of %s is in use: its interface is there; delete the pod, or force it", l.Addrs, l.Key)
		}
		if _, _, err := t.Leases.Release(l.Key, l.Generation); err != nil {
			return out, err
		}
		t.Log.Info("lease released by hand", "lease", l.Key, "addrs", l.Addrs)
		out = append(out, agentapi.Lease{EndpointKey: agentapi.EndpointKey(l.Key), Addrs: l.Addrs, State: "cooling", PodNamespace: l.PodNamespace, PodName: l.PodName})
	}
	if len(out) == 0 {
		return out, agentapi.Errorf(agentapi.CodeUnknown, "there is no such lease")
	}
	return out, nil
}
