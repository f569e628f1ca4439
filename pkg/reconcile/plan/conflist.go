// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"encoding/json"
	"math"
	"net/netip"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/config"
)

// NetworkName is the name of the CNI network of pods' primary interfaces.
const NetworkName = "patchbay"

// conflist is the CNI configuration of a node.
type conflist struct {
	CNIVersion string      `json:"cniVersion"`
	Name       string      `json:"name"`
	Plugins    []podPlugin `json:"plugins"`
}

type podPlugin struct {
	Type         string       `json:"type"`
	Capabilities capabilities `json:"capabilities"`
	MTU          int          `json:"mtu"`
	AgentSocket  string       `json:"agentSocket"`
	IPAM         ipamConf     `json:"ipam"`
}

// capabilities are what the runtime may ask of the plugin.
type capabilities struct {
	PortMappings bool `json:"portMappings"`
}

type ipamConf struct {
	Type     string       `json:"type"`
	Leases   string       `json:"leases"`
	CoolDown string       `json:"coolDown"`
	Ranges   [][]ipamPart `json:"ranges"`

	StatusOnExhaustion bool `json:"statusOnExhaustion,omitempty"`
}

type ipamPart struct {
	Subnet  netip.Prefix   `json:"subnet"`
	Exclude []netip.Prefix `json:"exclude,omitempty"`
}

// PodRange is a range that a node gives addresses out of.
type PodRange struct {
	Prefix   netip.Prefix
	Pool     string         // that it is a block of; empty: it stands in the Node object
	Exclude  []netip.Prefix // never given out; what is outside of Prefix doesn't matter
	CoolDown time.Duration  // of freed addresses; 0: a minute
}

// Use counts the addresses of the range that are among held, and those left.
func (r PodRange) Use(held []netip.Addr) (used, free int64) {
	for _, a := range held {
		if r.Prefix.Contains(a) {
			used++
		}
	}
	pool, err := ipam.NewPool(r.Pool, ipam.Subnet{Prefix: r.Prefix, Exclude: r.Exclude})
	if err != nil {
		return used, 0
	}
	return used, int64(min(pool.Size(), math.MaxInt64)) - used
}

// Conflist is the CNI configuration for a node with these pod ranges; a pod
// gets one address of each family. Nil without ranges.
func Conflist(ranges []PodRange, mtu int, cfg config.Config) ([]byte, error) {
	var v4, v6 []ipamPart
	coolDown := time.Duration(0)
	for _, r := range ranges {
		part := ipamPart{Subnet: r.Prefix}
		for _, x := range r.Exclude {
			if x.Overlaps(r.Prefix) {
				part.Exclude = append(part.Exclude, x)
			}
		}
		if r.Prefix.Addr().Is4() {
			v4 = append(v4, part)
		} else {
			v6 = append(v6, part)
		}
		coolDown = max(coolDown, r.CoolDown)
	}
	var sets [][]ipamPart
	for _, set := range [][]ipamPart{v4, v6} {
		if len(set) > 0 {
			sets = append(sets, set)
		}
	}
	if sets == nil {
		return nil, nil
	}
	raw, err := json.MarshalIndent(conflist{CNIVersion: "1.1.0", Name: NetworkName, Plugins: []podPlugin{{
		Type: "patchbay", Capabilities: capabilities{PortMappings: true}, MTU: mtu, AgentSocket: cfg.Paths.AgentSocket(),
		IPAM: ipamConf{
			Type: "patchbay-ipam", Leases: cfg.Paths.Leases(), CoolDown: cmp.Or(coolDown, time.Minute).String(), Ranges: sets,
			StatusOnExhaustion: cfg.CNI.StatusOnExhaustion,
		},
	}}}, "", "  ")
	return append(raw, '\n'), err
}
