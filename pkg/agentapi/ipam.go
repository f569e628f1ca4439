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

// The operations on pools of addresses.
const (
	OpPools     Op = "pools"      // nothing → []Pool
	OpPoolDrain Op = "pool.drain" // PoolDrain → Pool
)

// Pool is a pool of addresses as the cluster has it.
type Pool struct {
	Name       string         `json:"name"`
	Use        string         `json:"use"` // Pod, Node or LoadBalancer
	Ranges     []string       `json:"ranges"`
	AutoAssign bool           `json:"autoAssign"`
	Disabled   bool           `json:"disabled,omitempty"` // gives nothing any more
	Priority   int32          `json:"priority,omitempty"`
	Total      int64          `json:"total"`
	Used       int64          `json:"used"`
	Free       int64          `json:"free"`
	Conflicts  []PoolConflict `json:"conflicts,omitempty"`
	Owners     []PoolOwner    `json:"owners,omitempty"` // who has LoadBalancer addresses of it
	Problems   []string       `json:"problems,omitempty"`
}

// PoolOwner is a Service with an address of a pool.
type PoolOwner struct {
	Address string `json:"address"`
	Service string `json:"service"`
	State   string `json:"state"` // Reserved while the network is searched for it, else Active
}

// PoolConflict is an address of a pool that another machine uses.
type PoolConflict struct {
	Address string `json:"address"`
	MAC     string `json:"mac,omitempty"`
	Node    string `json:"node,omitempty"` // that saw it
}

// PoolDrain asks for a pool to give nothing any more, or to give again.
type PoolDrain struct {
	Pool string `json:"pool"`
	Off  bool   `json:"off,omitempty"`
}

// Pools lists the pools.
func (c Client) Pools(ctx context.Context) ([]Pool, error) { return get[[]Pool](ctx, c, OpPools) }

// DrainPool has a pool give nothing any more, or give again.
func (c Client) DrainPool(ctx context.Context, d PoolDrain) (Pool, error) {
	var out Pool
	err := c.call(ctx, OpPoolDrain, d, &out)
	return out, err
}
