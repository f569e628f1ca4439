// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Random makes states and packets. The same seed makes the same ones.
type Random struct {
	*rand.Rand
	// Plain leaves out what kube-proxy doesn't refuse, and we do.
	Plain bool

	sport uint16
}

// NewRandom returns a source of states.
func NewRandom(seed uint64) *Random {
	return &Random{Rand: rand.New(rand.NewPCG(seed, 20546)), sport: 20000}
}

func (r *Random) chance(percent int) bool { return r.IntN(100) < percent }

func one[T any](r *Random, list ...T) T { return list[r.IntN(len(list))] }

// State returns a cluster with a few Services.
func (r *Random) State() *State {
	s := &State{Node: nodeA, Nodes: newNodes(), NICs: newNICs(), PodRanges: podRanges(), ServiceRanges: serviceRanges(), Pools: pools()}
	for i := range 2 + r.IntN(5) {
		r.addService(s, i)
	}
	return s
}

// Change returns what a state becomes by a few changes of Services and
// endpoints. The state itself stays.
func (r *Random) Change(old *State) *State {
	s := &State{
		Node: old.Node, Nodes: slices.Clone(old.Nodes), Services: slices.Clone(old.Services), Slices: slices.Clone(old.Slices),
		NICs: old.NICs, PodRanges: old.PodRanges, ServiceRanges: old.ServiceRanges, Pools: old.Pools, Suspect: old.Suspect,
	}
	if !r.Plain && r.chance(25) {
		s.Suspect = map[string]bool{nodeA: r.chance(20), nodeB: r.chance(50), nodeC: r.chance(50)}
	}
	for range 1 + r.IntN(4) {
		i := r.IntN(8)
		switch {
		case r.chance(20):
			r.removeService(s, i)
		case r.chance(25):
			r.removeService(s, i)
			r.addService(s, i)
		case r.chance(10):
			r.moveZone(s)
		case len(s.Slices) > 0:
			at := r.IntN(len(s.Slices))
			slice := s.Slices[at].DeepCopy()
			s.Slices[at] = slice
			r.changeSlice(slice, at)
		}
	}
	return s
}

func serviceName(i int) string { return fmt.Sprintf("s%d", i) }

func (r *Random) removeService(s *State, i int) {
	s.Services = slices.DeleteFunc(s.Services, func(svc *corev1.Service) bool { return svc.Name == serviceName(i) })
	s.Slices = slices.DeleteFunc(s.Slices, func(slice *discoveryv1.EndpointSlice) bool {
		return slice.Labels[discoveryv1.LabelServiceName] == serviceName(i)
	})
}

// moveZone gives node a another zone, or none.
func (r *Random) moveZone(s *State) {
	s.Nodes[0] = s.Nodes[0].DeepCopy()
	s.Nodes[0].Labels = map[string]string{corev1.LabelTopologyZone: one(r, zoneNear, zoneFar, "")}
}

// changeSlice changes, adds or removes an endpoint.
func (r *Random) changeSlice(slice *discoveryv1.EndpointSlice, number int) {
	family := 4
	if slice.AddressType == discoveryv1.AddressTypeIPv6 {
		family = 6
	}
	if n := len(slice.Endpoints); n > 0 && r.chance(70) {
		at := r.IntN(n)
		if r.chance(30) {
			slice.Endpoints = slices.Delete(slice.Endpoints, at, at+1)
			return
		}
		slice.Endpoints[at].Conditions = r.conditions()
		return
	}
	slice.Endpoints = append(slice.Endpoints, r.endpoint(family, 30+number+len(slice.Endpoints), true, true))
}

// addService adds the i-th Service, unless there is one, and its slices.
func (r *Random) addService(s *State, i int) {
	if slices.ContainsFunc(s.Services, func(svc *corev1.Service) bool { return svc.Name == serviceName(i) }) {
		return
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: serviceName(i)}}
	svc.Spec.Type = one(r, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer)
	families := one(r, []int{4}, []int{6}, []int{4, 6}, []int{6, 4}, []int{4, 6})
	for _, f := range families {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, serviceIP(f, 10+i).String())
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, map[int]corev1.IPFamily{4: corev1.IPv4Protocol, 6: corev1.IPv6Protocol}[f])
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	r.ports(svc, i)
	r.policies(svc)
	r.open(svc, i)
	if r.chance(4) {
		svc.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": one(r, "other", "")}
	}
	if r.chance(3) {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
	}
	s.Services = append(s.Services, svc)
	for _, f := range families {
		r.addSlices(s, svc, f)
	}
}

// ports gives a Service one to three ports. Two may have one number.
func (r *Random) ports(svc *corev1.Service, i int) {
	for j := range 1 + r.IntN(3) {
		port := corev1.ServicePort{
			Name: fmt.Sprintf("p%d", j), Protocol: one(r, corev1.ProtocolTCP, corev1.ProtocolUDP), Port: int32(80 + j),
		}
		if j == 1 && port.Protocol != svc.Spec.Ports[0].Protocol {
			port.Port = svc.Spec.Ports[0].Port
		}
		if j == 2 && r.chance(30) {
			port.Protocol = corev1.ProtocolSCTP
		}
		if svc.Spec.Type != corev1.ServiceTypeClusterIP && port.Protocol != corev1.ProtocolSCTP && r.chance(80) {
			port.NodePort = int32(30000 + 10*i + j)
		}
		svc.Spec.Ports = append(svc.Spec.Ports, port)
	}
}

func (r *Random) policies(svc *corev1.Service) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	if r.chance(25) {
		svc.Spec.InternalTrafficPolicy = &local
	}
	if svc.Spec.Type != corev1.ServiceTypeClusterIP && r.chance(40) {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if r.chance(20) {
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		if seconds := int32(600); r.chance(50) {
			svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	if roles := one(r, "", "", "internal", "external", "internal, external"); roles != "" {
		svc.Annotations = map[string]string{"patchbay.net/nodeport-nics": roles}
	}
}

// open gives a Service addresses for the outside.
func (r *Random) open(svc *corev1.Service, i int) {
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	for _, f := range Families() {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && r.chance(85) {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{
				// Some share an address: their ports may clash.
				IP: poolIP(f, i-r.IntN(2)*r.IntN(2)*min(i, 1)).String(), IPMode: one(r, nil, nil, &vip, &vip, &proxy),
			})
		}
		if r.chance(15) {
			svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs, externalIP(f, 1+i%3).String())
		}
		if !r.Plain && r.chance(5) {
			svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs,
				one(r, serviceIP(f, 10), poolIP(f, 0), NodeIP(f, 0), ExternalNodeIP(f, 0), NodeIP(f, 1)).String())
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && r.chance(40) {
		ranges := []string{"203.0.0.0/24", " 2001:db8:c0::/48 ", "10.244.0.0/25", "203.0.0.0/8", "0.0.0.0/0", "fd00:244:1::/64"}
		r.Shuffle(len(ranges), func(a, b int) { ranges[a], ranges[b] = ranges[b], ranges[a] })
		svc.Spec.LoadBalancerSourceRanges = ranges[:1+r.IntN(3)]
	}
}

// addSlices gives a Service one or two slices of a family.
func (r *Random) addSlices(s *State, svc *corev1.Service, family int) {
	if r.chance(8) {
		return
	}
	nodeHints, zoneHints := r.chance(30), r.chance(40)
	hole := r.chance(25) // one endpoint may lack its hints
	number := 1
	for part := range 1 + r.IntN(2) {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: svc.Namespace, Name: fmt.Sprintf("%s-%d-%d", svc.Name, family, part),
				Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
			},
			AddressType: one(r, discoveryv1.AddressTypeIPv4),
		}
		if family == 6 {
			slice.AddressType = discoveryv1.AddressTypeIPv6
		}
		slice.Ports = r.slicePorts(svc)
		for range r.IntN(4) {
			with := !hole || r.chance(70)
			slice.Endpoints = append(slice.Endpoints, r.endpoint(family, number, nodeHints && with, zoneHints && with))
			number++
		}
		s.Slices = append(s.Slices, slice)
	}
}

func (r *Random) slicePorts(svc *corev1.Service) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, p := range svc.Spec.Ports {
		number := int32(one(r, 8080, 9090, 80))
		if r.chance(2) {
			number = 0
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &number})
	}
	return ports
}

// endpoint returns one on some node, mostly a pod, mostly ready.
func (r *Random) endpoint(family, number int, nodeHints, zoneHints bool) discoveryv1.Endpoint {
	node := r.IntN(3)
	name := []string{nodeA, nodeB, nodeC}[node]
	addr := PodIP(family, node, 5+r.IntN(4))
	if node > 0 {
		addr = PodIP(family, node, 5+number)
	}
	e := discoveryv1.Endpoint{NodeName: &name, Conditions: r.conditions()}
	switch {
	case r.chance(10):
		addr = NodeIP(family, node) // on the host's network
	case r.chance(4):
		addr, e.NodeName = elsewhereIP(family), nil // not in the cluster
	case !r.Plain && r.chance(4):
		addr = r.forbidden(family)
	}
	e.Addresses = []string{addr.String()}
	if nodeHints || zoneHints {
		e.Hints = &discoveryv1.EndpointHints{}
	}
	if nodeHints {
		e.Hints.ForNodes = []discoveryv1.ForNode{{Name: one(r, nodeA, name, nodeB, nodeC)}}
	}
	if zoneHints {
		e.Hints.ForZones = []discoveryv1.ForZone{{Name: one(r, zoneNear, zoneFar, "third")}}
	}
	return e
}

// forbidden returns an address that no endpoint may have.
func (r *Random) forbidden(family int) netip.Addr {
	if family == 4 {
		return netip.MustParseAddr(one(r, "127.0.0.1", "169.254.1.1", "224.0.0.5", "0.0.0.0", "10.96.0.10", "198.51.100.201", "fd00:244::5"))
	}
	return netip.MustParseAddr(one(r, "::1", "fe80::1", "ff02::1", "::", "fd00:96::10", "2001:db8:1::1:201", "10.244.0.5"))
}

func (r *Random) conditions() discoveryv1.EndpointConditions {
	yes, no := true, false
	return one(r,
		discoveryv1.EndpointConditions{},
		discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		discoveryv1.EndpointConditions{Ready: &yes},
		discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes},
		discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes},
		discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &no},
		discoveryv1.EndpointConditions{Ready: &no, Terminating: &yes},
	)
}
