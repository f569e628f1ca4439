// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// Ranges are addresses of the cluster that no endpoint may have.
type Ranges struct {
	Service      []netip.Prefix        // of ClusterIPs
	LoadBalancer []ipam.Pool           // of LoadBalancer addresses, but for
	IsNode       func(netip.Addr) bool // those that nodes have
}

// refuse returns why an endpoint may not have this address, or nil. Whoever may
// write EndpointSlices must not be able to point a Service at the node itself,
// at its neighbours on a link, or at another Service.
func (r Ranges) refuse(addr netip.Addr) error {
	switch {
	case addr.IsUnspecified():
		return errors.New("is unspecified")
	case addr.IsLoopback():
		return errors.New("is loopback")
	case addr.IsLinkLocalUnicast():
		return errors.New("is link-local")
	case addr.IsMulticast():
		return errors.New("is multicast")
	}
	if slices.ContainsFunc(r.Service, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return errors.New("is in a range of Services")
	}
	for _, pool := range r.LoadBalancer {
		if pool.Contains(addr) && !r.IsNode(addr) {
			return fmt.Errorf("is in pool %s of LoadBalancer addresses", pool.Name)
		}
	}
	return nil
}

// SliceService returns the Service that a slice belongs to, false if it names
// none.
func SliceService(obj *discoveryv1.EndpointSlice) (service.Name, bool) {
	name := obj.Labels[discoveryv1.LabelServiceName]
	return service.Name{Namespace: obj.Namespace, Name: name}, name != ""
}

// EndpointSlice returns one endpoint for each address and port of the slice
// that may be used. The error tells which were refused, and why.
func EndpointSlice(obj *discoveryv1.EndpointSlice, ranges Ranges) ([]service.Endpoint, error) {
	if obj.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	ports, err := slicePorts(obj.Ports)
	errs := []error{err}
	list := make([]service.Endpoint, 0, len(obj.Endpoints)*len(ports))
	for i := range obj.Endpoints {
		ep, err := endpoint(obj.AddressType, &obj.Endpoints[i], ranges)
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %d: %w", i, err))
			continue
		}
		for _, p := range ports {
			ep.PortName, ep.Protocol, ep.Port = p.Name, p.Protocol, p.Port
			list = append(list, ep)
		}
	}
	return list, errors.Join(errs...)
}

func slicePorts(list []discoveryv1.EndpointPort) ([]service.Port, error) {
	var ports []service.Port
	var errs []error
	for i, p := range list {
		port, err := slicePort(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("port %d: %w", i, err))
			continue
		}
		ports = append(ports, port)
	}
	return ports, errors.Join(errs...)
}

func slicePort(p discoveryv1.EndpointPort) (port service.Port, err error) {
	port.Protocol = service.TCP
	if p.Protocol != nil {
		if port.Protocol, err = parseProtocol(*p.Protocol); err != nil {
			return port, err
		}
	}
	if p.Name != nil {
		port.Name = *p.Name
	}
	if p.Port == nil {
		return port, errors.New("has no number")
	}
	port.Port, err = parsePort(*p.Port)
	return port, err
}

// endpoint returns all of an endpoint but its port. Only the first address
// counts, as for kube-proxy.
func endpoint(family discoveryv1.AddressType, obj *discoveryv1.Endpoint, ranges Ranges) (service.Endpoint, error) {
	if len(obj.Addresses) == 0 {
		return service.Endpoint{}, errors.New("has no address")
	}
	addr, err := parseAddr(obj.Addresses[0])
	if err != nil {
		return service.Endpoint{}, err
	}
	if want4 := family == discoveryv1.AddressTypeIPv4; addr.Is4() != want4 {
		return service.Endpoint{}, fmt.Errorf("%s is not of the slice's addressType %q", addr, family)
	}
	if err := ranges.refuse(addr); err != nil {
		return service.Endpoint{}, fmt.Errorf("%s %w", addr, err)
	}
	c := obj.Conditions
	ep := service.Endpoint{
		Addr:        addr,
		Ready:       c.Ready == nil || *c.Ready,
		Serving:     c.Serving == nil || *c.Serving,
		Terminating: c.Terminating != nil && *c.Terminating,
	}
	if obj.NodeName != nil {
		ep.Node = *obj.NodeName
	}
	if obj.Hints != nil {
		for _, h := range obj.Hints.ForNodes {
			ep.NodeHints = append(ep.NodeHints, h.Name)
		}
		for _, h := range obj.Hints.ForZones {
			ep.ZoneHints = append(ep.ZoneHints, h.Name)
		}
	}
	return ep, nil
}
