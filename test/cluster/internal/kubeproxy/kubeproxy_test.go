// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"
)

// state is what test/oracle/cases prints: a cluster, and the oracle's answers.
type state struct {
	Seed     uint64
	Node     string
	Labels   map[string]string
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Ports    []port
}

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

// TestOracle has kube-proxy judge random clusters, and compares with the oracle.
// Another seed: PATCHBAY_ORACLE_SEED.
func TestOracle(t *testing.T) {
	seed := "1"
	if s := os.Getenv("PATCHBAY_ORACLE_SEED"); s != "" {
		seed = s
	}
	cmd := exec.Command("go", "run", "./test/oracle/cases", "-seed", seed, "-count", "2000")
	cmd.Dir = "../../../.."
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	states, ports := 0, 0
	for lines := json.NewDecoder(out); ; states++ {
		var s state
		if err := lines.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			ports += s.compare(t, family)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go run ./test/oracle/cases: %v", err)
	}
	t.Logf("%d clusters, %d Service ports", states, ports)
	if states < 2000 || ports < states {
		t.Errorf("%d clusters with %d Service ports: too few", states, ports)
	}
}

// compare lets kube-proxy read the objects of a family, and returns how many
// Service ports were compared.
func (s *state) compare(t *testing.T, family corev1.IPFamily) int {
	changes := proxy.NewServiceChangeTracker(family, nil, nil)
	for _, svc := range s.Services {
		// Services with this label never reach kube-proxy: its informers leave them out.
		if _, others := svc.Labels["service.kubernetes.io/service-proxy-name"]; !others {
			changes.Update(nil, svc)
		}
	}
	services := proxy.ServicePortMap{}
	services.Update(changes)
	tracker := proxy.NewEndpointsChangeTracker(family, s.Node, nil, nil)
	for _, slice := range s.Slices {
		tracker.EndpointSliceUpdate(slice, false)
	}
	endpoints := proxy.EndpointsMap{}
	endpoints.Update(tracker)

	compared := 0
	for _, p := range s.Ports {
		if p.Family != family {
			continue
		}
		compared++
		name := proxy.ServicePortName{NamespacedName: types.NamespacedName{Namespace: "default", Name: p.Service}, Port: p.Name, Protocol: p.Protocol}
		info, ok := services[name]
		if !ok {
			t.Errorf("seed %d: %s %s: kube-proxy doesn't serve it", s.Seed, name, family)
			continue
		}
		delete(services, name)
		s.comparePort(t, p, info, endpoints[name])
	}
	for name := range services {
		t.Errorf("seed %d: %s %s: kube-proxy serves it, the oracle doesn't", s.Seed, name, family)
	}
	return compared
}

func (s *state) comparePort(t *testing.T, p port, info proxy.ServicePort, endpoints []proxy.Endpoint) {
	cluster, local, _, anywhere := proxy.CategorizeEndpoints(endpoints, info, s.Node, s.Labels)
	same := func(what string, oracle, kubeProxy any) {
		if !reflect.DeepEqual(oracle, kubeProxy) {
			t.Errorf("seed %d: %s:%s %s %s: %s: the oracle says %v, kube-proxy %v", s.Seed, p.Service, p.Name, p.Protocol, p.Family, what, oracle, kubeProxy)
		}
	}
	if info.UsesClusterEndpoints() {
		same("endpoints", p.Cluster, addrs(cluster))
	}
	if info.UsesLocalEndpoints() {
		same("local endpoints", p.Local, addrs(local))
	}
	same("any endpoints", p.Any, anywhere)
	same("LoadBalancer addresses", p.LoadBalancerIPs, ips(info.LoadBalancerVIPs()))
	same("external addresses", p.ExternalIPs, ips(info.ExternalIPs()))
	if len(info.LoadBalancerVIPs()) > 0 {
		same("source ranges", prefixes(p.SourceRanges), fmt.Sprint(info.LoadBalancerSourceRanges()))
	}
}

func addrs(endpoints []proxy.Endpoint) []netip.AddrPort {
	var list []netip.AddrPort
	for _, e := range endpoints {
		list = append(list, netip.MustParseAddrPort(e.String()))
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

func ips(list []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range list {
		out = append(out, netip.MustParseAddr(ip.String()))
	}
	return out
}

// prefixes prints ranges as net.IPNet does.
func prefixes(list []netip.Prefix) string {
	var out []*net.IPNet
	for _, p := range list {
		_, n, _ := net.ParseCIDR(p.String())
		out = append(out, n)
	}
	return fmt.Sprint(out)
}
