// SPDX-License-Identifier: Apache-2.0

// Command cases prints random clusters, one a line, each with what the oracle
// says of it, for comparison with kube-proxy's own code: that is in the module
// test/cluster, which knows nothing of this one.
//
//	go run ./test/oracle/cases -seed 1 -count 1000
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/test/oracle"
)

// state is a cluster and the answers.
type state struct {
	Seed     uint64
	Node     string
	Labels   map[string]string // of the node
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Ports    []port
}

// port is what the oracle says of one port of a Service in one family.
type port struct {
	Service, Name   string
	Protocol        corev1.Protocol
	Family          corev1.IPFamily
	Cluster, Local  []netip.AddrPort
	Any             bool
	LoadBalancerIPs []netip.Addr
	ExternalIPs     []netip.Addr
	SourceRanges    []netip.Prefix
}

func main() {
	seed := flag.Uint64("seed", 1, "of the first cluster")
	count := flag.Uint64("count", 1000, "how many clusters")
	flag.Parse()
	out := json.NewEncoder(os.Stdout)
	for s := *seed; s < *seed+*count; s++ {
		if err := out.Encode(newState(s)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func newState(seed uint64) state {
	r := oracle.NewRandom(seed)
	r.Plain = true
	s := r.State()
	for range r.IntN(3) {
		s = r.Change(s)
	}
	s.Slices = defined(s.Slices)
	out := state{Seed: seed, Node: s.Node, Services: s.Services, Slices: s.Slices}
	for _, n := range s.Nodes {
		if n.Name == s.Node {
			out.Labels = n.Labels
		}
	}
	for _, svc := range s.Services {
		asAPIServer(svc)
		for _, p := range svc.Spec.Ports {
			for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
				if own, ok := newPort(s, svc, p, family); ok {
					out.Ports = append(out.Ports, own)
				}
			}
		}
	}
	return out
}

// defined leaves out endpoints for which kube-proxy's answer depends on chance: of
// those of a Service with one address it prefers who doesn't terminate, but
// among two alike anyone.
func defined(list []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	type kind struct {
		service, addr string
		terminating   bool
	}
	seen := map[kind]bool{}
	var out []*discoveryv1.EndpointSlice
	for _, slice := range list {
		slice = slice.DeepCopy()
		slice.Endpoints = slices.DeleteFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			k := kind{slice.Labels[discoveryv1.LabelServiceName], e.Addresses[0], terminating}
			again := seen[k]
			seen[k] = true
			return again
		})
		out = append(out, slice)
	}
	return out
}

// newPort returns what is served of a port in a family, false if nothing is.
func newPort(s *oracle.State, svc *corev1.Service, p corev1.ServicePort, family corev1.IPFamily) (port, bool) {
	is4 := family == corev1.IPv4Protocol
	chosen := s.Port(svc, p, is4).Choose()
	out := port{
		Service: svc.Name, Name: p.Name, Protocol: p.Protocol, Family: family,
		Cluster: chosen.Cluster, Local: chosen.Local, Any: chosen.Any,
	}
	served := false
	for _, f := range s.PortFrontends(svc, p) {
		if f.Addr.Addr().Is4() != is4 {
			continue
		}
		switch f.Kind {
		case oracle.ClusterIP:
			served = true
		case oracle.LoadBalancer:
			out.LoadBalancerIPs = append(out.LoadBalancerIPs, f.Addr.Addr())
			out.SourceRanges = f.SourceRanges
		case oracle.ExternalIP:
			out.ExternalIPs = append(out.ExternalIPs, f.Addr.Addr())
		}
	}
	// Each address is there twice: for the cluster, and for the outside.
	out.LoadBalancerIPs, out.ExternalIPs = slices.Compact(out.LoadBalancerIPs), slices.Compact(out.ExternalIPs)
	return out, served
}

// asAPIServer fills in what the API server does.
func asAPIServer(svc *corev1.Service) {
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && svc.Spec.SessionAffinityConfig == nil {
		seconds := int32(10800)
		svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}
