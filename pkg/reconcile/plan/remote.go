// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
)

// RemoteNIC is another node's NIC.
type RemoteNIC struct {
	MAC      [6]byte
	Addrs    []netip.Prefix
	External bool
	Carrier  bool
}

// RemoteNICs are the NICs that a node reports of itself.
func RemoteNICs(state *v1alpha1.NodeNetworkState) []RemoteNIC {
	var nics []RemoteNIC
	for _, n := range state.Status.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || n.Role == nic.Ignored.String() {
			continue
		}
		out := RemoteNIC{MAC: [6]byte(mac), External: strings.Contains(n.Role, nic.External.String()), Carrier: n.Carrier}
		for _, a := range n.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil {
				out.Addrs = append(out.Addrs, p)
			}
		}
		nics = append(nics, out)
	}
	return nics
}

// HasTunnel tells whether a node reports that it takes packets by the tunnel.
func HasTunnel(state *v1alpha1.NodeNetworkState) bool {
	return slices.ContainsFunc(state.Status.NICs, func(n v1alpha1.NICState) bool { return n.Name == netdev.TunnelName && n.Carrier })
}
