// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Peer is how another node is seen on one of our NICs.
type Peer struct {
	Node    string // for messages only
	IfIndex int
	MAC     [6]byte    // zero: any, for a node behind a router: its tunnel packets only
	Addr    netip.Addr // where its tunnel packets come from
}

// Peers owns the map peers.
type Peers struct{ Map *ebpf.Map }

// Set makes the map hold exactly peers.
func (m Peers) Set(peers []Peer) error {
	want := make(map[objects.MapPeerKey]objects.MapPeer, 2*len(peers))
	for _, p := range peers {
		key := objects.MapPeerKey{Addr: objects.Addr(p.Addr), Ifindex: uint32(p.IfIndex), Mac: p.MAC}
		want[key] = objects.MapPeer{Node: objects.Addr(p.Addr)}
		// What comes out of the tunnel has neither NIC nor MAC of the node.
		want[objects.MapPeerKey{Addr: key.Addr}] = want[key]
		if p.MAC != [6]byte{} {
			// And once without address, for everything that isn't a tunnel packet.
			want[objects.MapPeerKey{Ifindex: key.Ifindex, Mac: key.Mac}] = want[key]
		}
	}
	if err := sync(m.Map, want, unordered); err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return nil
}
