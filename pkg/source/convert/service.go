// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/service"
)

// labelProxyName gives a Service to another proxy, whatever its value: kube-proxy
// asks for Services without it.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

const defaultAffinity = 3 * time.Hour // as the API server fills it in

// Service returns what obj says, and false if there is nothing to serve:
// headless, ExternalName, or left to another proxy. The error tells what had to
// be left out of the result.
func Service(obj *corev1.Service) (service.Service, bool, error) {
	spec := &obj.Spec
	if _, others := obj.Labels[labelProxyName]; others || spec.Type == corev1.ServiceTypeExternalName {
		return service.Service{}, false, nil
	}
	if spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(spec.ClusterIPs, corev1.ClusterIPNone) {
		return service.Service{}, false, nil
	}
	clusterIPs, errIPs := parseAddrs("clusterIPs", clusterIPs(spec))
	if len(clusterIPs) == 0 {
		return service.Service{}, false, errors.Join(errIPs, errors.New("clusterIPs: has none, and without one a Service isn't served"))
	}
	externalIPs, errExternal := parseAddrs("externalIPs", spec.ExternalIPs)
	ports, errPorts := servicePorts(spec.Ports)
	ranges, errRanges := sourceRanges(spec.LoadBalancerSourceRanges)
	ingress, errIngress := ingressIPs(obj.Status.LoadBalancer.Ingress)
	nics, errNICs := nodePortNICs(obj.Annotations[v1alpha1.AnnotationNodePortNICs])
	perPacket, errUDP := udpPerPacket(obj.Annotations[v1alpha1.AnnotationUDPMode])
	svc := service.Service{
		Namespace: obj.Namespace, Name: obj.Name,
		ClusterIPs: clusterIPs, ExternalIPs: externalIPs, LoadBalancerIPs: ingress,
		Ports:         ports,
		Affinity:      affinity(spec),
		ExternalLocal: externalLocal(spec),
		InternalLocal: spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		SourceRanges:  ranges,
		NodePortNICs:  nics,
		UDPPerPacket:  perPacket,
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && svc.ExternalLocal {
		svc.HealthCheckNodePort = uint16(spec.HealthCheckNodePort)
	}
	return svc, true, errors.Join(errIPs, errExternal, errPorts, errRanges, errIngress, errNICs, errUDP)
}

// clusterIPs returns the Service's cluster addresses.
func clusterIPs(spec *corev1.ServiceSpec) []string {
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		return []string{spec.ClusterIP}
	}
	return spec.ClusterIPs
}

// externalLocal tells whether the Service is open to the outside, and its
// policy there is Local.
func externalLocal(spec *corev1.ServiceSpec) bool {
	open := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || len(spec.ExternalIPs) > 0
	return open && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func affinity(spec *corev1.ServiceSpec) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return defaultAffinity
}

func servicePorts(list []corev1.ServicePort) ([]service.Port, error) {
	var ports []service.Port
	var errs []error
	for _, p := range list {
		protocol, err := parseProtocol(p.Protocol)
		if err != nil {
			errs = append(errs, fmt.Errorf("port %q: %w", p.Name, err))
			continue
		}
		number, err := parsePort(p.Port)
		if err != nil {
			errs = append(errs, fmt.Errorf("port %q: %w", p.Name, err))
			continue
		}
		port := service.Port{Name: p.Name, Protocol: protocol, Port: number}
		if p.NodePort != 0 {
			if port.NodePort, err = parsePort(p.NodePort); err != nil {
				errs = append(errs, fmt.Errorf("port %q: node %w", p.Name, err))
			}
		}
		ports = append(ports, port)
	}
	return ports, errors.Join(errs...)
}

// parseProtocol reads a protocol's name; the default is TCP.
func parseProtocol(p corev1.Protocol) (service.Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return service.TCP, nil
	case corev1.ProtocolUDP:
		return service.UDP, nil
	case corev1.ProtocolSCTP:
		return service.SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q is none of TCP, UDP, SCTP", p)
}

// nobody are ranges that match no source of either family.
func nobody() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 32),
		netip.PrefixFrom(netip.IPv6Unspecified(), 128),
	}
}

// sourceRanges reads the ranges. If some were given and none can be read,
// nobody is let in: a mistake must not open the Service to everybody.
func sourceRanges(list []string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	var errs []error
	for _, s := range list {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil || prefix.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("loadBalancerSourceRanges: %q is not a range", s))
			continue
		}
		ranges = append(ranges, prefix.Masked())
	}
	if len(ranges) == 0 && len(list) > 0 {
		ranges = nobody()
	}
	return ranges, errors.Join(errs...)
}

// ingressIPs returns the addresses that the datapath itself must serve: those
// with ipMode VIP, which is the default. Traffic to the others comes by a proxy
// outside, to the node ports.
func ingressIPs(list []corev1.LoadBalancerIngress) ([]netip.Addr, error) {
	var ips []string
	for _, in := range list {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			ips = append(ips, in.IP)
		}
	}
	return parseAddrs("status.loadBalancer.ingress", ips)
}

func udpPerPacket(annotation string) (bool, error) {
	switch annotation {
	case "", "flow":
		return false, nil
	case "packet":
		return true, nil
	}
	return false, fmt.Errorf("annotation %s: %q is none of flow, packet", v1alpha1.AnnotationUDPMode, annotation)
}

func nodePortNICs(annotation string) (service.NICRoles, error) {
	var roles service.NICRoles
	if strings.TrimSpace(annotation) == "" {
		return 0, nil
	}
	for role := range strings.SplitSeq(annotation, ",") {
		switch strings.TrimSpace(role) {
		case "internal":
			roles |= service.InternalNIC
		case "external":
			roles |= service.ExternalNIC
		default:
			return 0, fmt.Errorf("annotation %s: %q is none of internal, external", v1alpha1.AnnotationNodePortNICs, role)
		}
	}
	return roles, nil
}
