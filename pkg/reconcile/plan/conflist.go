// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"net/netip"

	"github.com/patchbay-net/patchbay/pkg/config"
)

// conflist is the CNI configuration of a node.
type conflist struct {
	CNIVersion string      `json:"cniVersion"`
	Name       string      `json:"name"`
	Plugins    []podPlugin `json:"plugins"`
}

type podPlugin struct {
	Type        string `json:"type"`
	MTU         int    `json:"mtu"`
	AgentSocket string `json:"agentSocket"`
	IPAM        ipam   `json:"ipam"`
}

type ipam struct {
	Type     string       `json:"type"`
	Leases   string       `json:"leases"`
	CoolDown string       `json:"coolDown"`
	Ranges   [][]ipamPart `json:"ranges"`
}

type ipamPart struct {
	Subnet netip.Prefix `json:"subnet"`
}

// Conflist is the CNI configuration for a node with these pod ranges; a pod
// gets one address of each family. Nil without ranges.
func Conflist(ranges []netip.Prefix, mtu int, paths config.Paths) ([]byte, error) {
	var v4, v6 []ipamPart
	for _, p := range ranges {
		if p.Addr().Is4() {
			v4 = append(v4, ipamPart{p})
		} else {
			v6 = append(v6, ipamPart{p})
		}
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
	raw, err := json.MarshalIndent(conflist{CNIVersion: "1.1.0", Name: "patchbay", Plugins: []podPlugin{{
		Type: "patchbay", MTU: mtu, AgentSocket: paths.AgentSocket(),
		IPAM: ipam{Type: "patchbay-ipam", Leases: paths.Leases(), CoolDown: "60s", Ranges: sets},
	}}}, "", "  ")
	return append(raw, '\n'), err
}
