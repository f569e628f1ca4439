// SPDX-License-Identifier: Apache-2.0

// Package podlink makes a pod's interface: a veth whose one end is born in the
// pod's network namespace, routed on both sides. The pod has its addresses with
// full prefix lengths and a default route to a link-local gateway that exists
// as a fixed neighbour only; the node has one route and one fixed neighbour for
// each address. Nobody asks for anybody by ARP.
//
// Both MAC addresses are derived from the name of the host end, which is
// derived from the attachment, so a restart finds everything again.
package podlink

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
)

// Gateways of the pods, one of each family. No interface has them.
var (
	gateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	gateway6 = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})
)

// Gateway returns the pod's gateway to destinations of the address's family.
func Gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return gateway4
	}
	return gateway6
}

// HostMAC returns the MAC address of the host end: the gateway's, for the pod.
func HostMAC(hostName string) [6]byte { return derive(hostName, "host") }

// PodMAC returns the MAC address of the pod's end, unless another is asked for.
func PodMAC(hostName string) [6]byte { return derive(hostName, "pod") }

// derive makes a locally administered unicast address.
func derive(hostName, end string) (mac [6]byte) {
	hash := fnv.New64a()
	hash.Write([]byte(end + "/" + hostName))
	copy(mac[:], binary.BigEndian.AppendUint64(nil, hash.Sum64()))
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}
