// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// checkKubernetes refuses what the API server wouldn't have taken and what a
// file that was cut short looks like, and fills in what the API server would
// have. What stands in single ports and addresses is judged where they are read.
func checkKubernetes(obj source.Object) error {
	switch obj := obj.(type) {
	case *corev1.Service:
		return checkService(&obj.Spec)
	case *discoveryv1.EndpointSlice:
		return checkSlice(obj)
	case *corev1.Node:
		if obj.Labels == nil {
			obj.Labels = map[string]string{}
		}
		if obj.Labels[corev1.LabelHostname] == "" {
			obj.Labels[corev1.LabelHostname] = obj.Name
		}
	case *corev1.Namespace:
		if obj.Labels == nil {
			obj.Labels = map[string]string{}
		}
		obj.Labels[corev1.LabelMetadataName] = obj.Name
	}
	return nil
}

func checkService(spec *corev1.ServiceSpec) error {
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	types := []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}
	if !slices.Contains(types, spec.Type) {
		return fmt.Errorf("spec.type: %q must be one of %v", spec.Type, types)
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone {
		return errors.New("spec.ports: must have an entry")
	}
	if err := checkPorts(spec.Ports); err != nil {
		return err
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	for i, ip := range spec.ClusterIPs {
		if _, err := netip.ParseAddr(ip); err != nil && ip != corev1.ClusterIPNone {
			return fmt.Errorf("spec.clusterIPs[%d]: %q must be an address or None", i, ip)
		}
	}
	return nil
}

func checkPorts(ports []corev1.ServicePort) error {
	type port struct {
		protocol corev1.Protocol
		number   int32
	}
	names, seen := map[string]bool{}, map[port]bool{}
	for i := range ports {
		p := &ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		field := fmt.Sprintf("spec.ports[%d]", i)
		if p.Port < 1 || p.Port > 65535 {
			return fmt.Errorf("%s.port: %d must be from 1 to 65535", field, p.Port)
		}
		if p.NodePort < 0 || p.NodePort > 65535 {
			return fmt.Errorf("%s.nodePort: %d must be from 1 to 65535", field, p.NodePort)
		}
		if p.Name == "" && len(ports) > 1 {
			return fmt.Errorf("%s.name: must be given where there are several ports", field)
		}
		if names[p.Name] {
			return fmt.Errorf("%s.name: %q stands twice", field, p.Name)
		}
		if seen[port{p.Protocol, p.Port}] {
			return fmt.Errorf("%s: %s port %d stands twice", field, p.Protocol, p.Port)
		}
		names[p.Name], seen[port{p.Protocol, p.Port}] = true, true
	}
	return nil
}

func checkSlice(obj *discoveryv1.EndpointSlice) error {
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN}
	if !slices.Contains(types, obj.AddressType) {
		return fmt.Errorf("addressType: %q must be one of %v", obj.AddressType, types)
	}
	for i := range obj.Ports {
		p := &obj.Ports[i]
		if p.Name == nil {
			none := ""
			p.Name = &none
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
	for i := range obj.Endpoints {
		if len(obj.Endpoints[i].Addresses) == 0 {
			return fmt.Errorf("endpoints[%d].addresses: must have an entry", i)
		}
	}
	return nil
}
