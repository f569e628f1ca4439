// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"net/netip"
)

// The operations about addresses that an operator calls.
const (
	OpIPAM        Op = "ipam"         // nothing → IPAM
	OpIPAMRelease Op = "ipam.release" // IPAMRelease → []Lease, those that ended
)

// IPAM is how the node's addresses stand.
type IPAM struct {
	Blocks  []IPAMBlock `json:"blocks"`
	Waiting []IPAMWait  `json:"waiting"` // ADDs that the node has no address for
	Leaks   []IPAMLeak  `json:"leaks"`
	Early   uint64      `json:"early"` // addresses given before their cool-down was over, in all
}

// IPAMBlock is a range that the node gives addresses out of.
type IPAMBlock struct {
	Prefix   netip.Prefix `json:"prefix"`
	Pool     string       `json:"pool"`  // empty: node.spec.podCIDRs
	State    string       `json:"state"` // Active or Draining
	Revision int64        `json:"revision"`
	Used     int64        `json:"used"` // leased, resting or reserved
	Free     int64        `json:"free"`
	Node     string       `json:"node,omitempty"` // whose it is, where several are meant
}

// IPAMWait is what an ADD waits for.
type IPAMWait struct {
	EndpointKey
	Pool    string `json:"pool,omitempty"`
	Address string `json:"address,omitempty"`
}

// IPAMLeak is something that doesn't fit together.
type IPAMLeak struct {
	Kind  string       `json:"kind"` // lease, link, address or record
	Addrs []netip.Addr `json:"addrs"`
	Owner string       `json:"owner"` // container/interface, or a link
	Text  string       `json:"text"`  // what is wrong, and what to do
}

// IPAMRelease ends leases: that of an address, or all of a container.
type IPAMRelease struct {
	Address   netip.Addr `json:"address,omitzero"`
	Container string     `json:"container,omitempty"`
	Force     bool       `json:"force,omitempty"` // though the interface is there
}

// IPAM asks how the node's addresses stand.
func (c Client) IPAM(ctx context.Context) (IPAM, error) { return get[IPAM](ctx, c, OpIPAM) }

// ReleaseIPAM ends leases by hand, and returns them.
func (c Client) ReleaseIPAM(ctx context.Context, r IPAMRelease) ([]Lease, error) {
	var out []Lease
	err := c.call(ctx, OpIPAMRelease, r, &out)
	return out, err
}
