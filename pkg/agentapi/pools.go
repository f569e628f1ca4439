// SPDX-License-Identifier: Apache-2.0

package agentapi

import "context"

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
