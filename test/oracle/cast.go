// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The cast: node a is the one that serves; b is beside it on the internal
// network, c behind a router. The families are 4 and 6.
const (
	nodeA, nodeB, nodeC = "a", "b", "c"
	zoneNear, zoneFar   = "near", "far"
)

// Families are the families of addresses.
func Families() []int { return []int{4, 6} }

func pick(family int, v4, v6 string, args ...any) netip.Addr {
	if family == 4 {
		return netip.MustParseAddr(fmt.Sprintf(v4, args...))
	}
	return netip.MustParseAddr(fmt.Sprintf(v6, args...))
}

// PodIP is the address of a pod: node 0 is a, 1 b, 2 c.
func PodIP(family, node, number int) netip.Addr {
	return pick(family, "10.244.%d.%d", "fd00:244:%d::%d", node, number)
}

// NodeIP is a node's address on the internal network.
func NodeIP(family, node int) netip.Addr {
	return pick(family, "192.168.%[1]d.%[2]d", "fd00:%[1]d::%[2]d", 1+node/2, 1+node)
}

// ExternalNodeIP is a node's address on the external network.
func ExternalNodeIP(family, node int) netip.Addr {
	return pick(family, "198.51.100.%d", "2001:db8:1::%d", 1+node)
}

func serviceIP(family, number int) netip.Addr {
	return pick(family, "10.96.0.%d", "fd00:96::%d", number)
}

func poolIP(family, number int) netip.Addr {
	return pick(family, "198.51.100.%d", "2001:db8:1::1:%d", 200+number)
}

func externalIP(family, number int) netip.Addr {
	return pick(family, "198.18.0.%d", "2001:db8:e::%d", number)
}

// clientIP is of somebody outside; 0 is in the clients' usual range, the others not.
func clientIP(family, number int) netip.Addr {
	return pick(family, "203.0.%[1]d.9", "2001:db8:c%[1]d::9", number)
}

func elsewhereIP(family int) netip.Addr { return pick(family, "192.0.2.80", "2001:db8:f::80") }

func serviceRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
}

func podRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/32")}
}

func pools() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("198.51.100.192/27"), netip.MustParsePrefix("2001:db8:1::1:0/112")}
}

// newNodes returns the three nodes. Node b is in a's zone.
func newNodes() []*corev1.Node {
	var nodes []*corev1.Node
	for number, name := range []string{nodeA, nodeB, nodeC} {
		zone := zoneNear
		if name == nodeC {
			zone = zoneFar
		}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
		for _, f := range Families() {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: NodeIP(f, number).String()})
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// newNICs returns node a's: one internal, one external.
func newNICs() []NIC {
	internal, external := NIC{}, NIC{External: true}
	for _, f := range Families() {
		internal.Addrs = append(internal.Addrs, NodeIP(f, 0))
		external.Addrs = append(external.Addrs, ExternalNodeIP(f, 0))
	}
	return []NIC{internal, external}
}
