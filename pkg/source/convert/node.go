// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/service"
)

// NodeInfo is what a Node object says of itself.
type NodeInfo struct {
	Name, Zone  string
	InternalIPs []netip.Addr // in the object's order, the first of a family being the primary
	ExternalIPs []netip.Addr
	PodCIDRs    []netip.Prefix
	Deleting    bool
}

// addrs returns all addresses of the node.
func (n NodeInfo) addrs() []netip.Addr { return slices.Concat(n.InternalIPs, n.ExternalIPs) }

// Service returns the node as service.Build needs it, with the given addresses
// open for NodePorts.
func (n NodeInfo) Service(nodePortAddrs []netip.Addr) service.NodeInfo {
	return service.NodeInfo{Name: n.Name, Zone: n.Zone, Addrs: nodePortAddrs}
}

// Node returns what obj says. The error tells what had to be left out.
func Node(obj *corev1.Node) (NodeInfo, error) {
	n := NodeInfo{
		Name:     obj.Name,
		Zone:     obj.Labels[corev1.LabelTopologyZone],
		Deleting: obj.DeletionTimestamp != nil,
	}
	var errs []error
	for _, a := range obj.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		addr, err := parseAddr(a.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("status.addresses: %w", err))
			continue
		}
		if a.Type == corev1.NodeInternalIP {
			n.InternalIPs = append(n.InternalIPs, addr)
		} else {
			n.ExternalIPs = append(n.ExternalIPs, addr)
		}
	}
	for _, s := range podCIDRs(obj) {
		prefix, err := netip.ParsePrefix(s)
		if err != nil || prefix.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("spec.podCIDRs: %q is not a range", s))
			continue
		}
		n.PodCIDRs = append(n.PodCIDRs, prefix.Masked())
	}
	return n, errors.Join(errs...)
}

func podCIDRs(obj *corev1.Node) []string {
	if len(obj.Spec.PodCIDRs) == 0 && obj.Spec.PodCIDR != "" {
		return []string{obj.Spec.PodCIDR}
	}
	return obj.Spec.PodCIDRs
}
