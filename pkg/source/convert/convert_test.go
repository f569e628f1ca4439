// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/pkg/service"
)

var equalAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// read decodes YAML strictly.
func read[T any](t *testing.T, text string) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

// checkErr requires an error that contains all parts, or none without parts.
func checkErr(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil && len(parts) > 0 {
		t.Fatalf("want an error with %q, got none", parts)
	}
	if err != nil && len(parts) == 0 {
		t.Fatalf("want no error, got %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("want %q in the error, got %v", part, err)
		}
	}
}

func TestServiceWhole(t *testing.T) {
	obj := read[corev1.Service](t, `
metadata: {namespace: default, name: web, annotations: {patchbay.net/nodeport-nics: "internal, external"}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  externalIPs: [192.0.2.99]
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: dns, protocol: UDP, port: 53}
  - {name: assoc, protocol: SCTP, port: 9}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 31000
  loadBalancerSourceRanges: [" 203.0.113.7/24 ", "fd00::/8"]
status:
  loadBalancer:
    ingress: [{ip: 192.0.2.10}, {ip: "fd00:c0::10", ipMode: VIP}, {ip: 192.0.2.11, ipMode: Proxy}, {hostname: web.example}]
`)
	got, ok, err := Service(obj)
	checkErr(t, err)
	want := service.Service{
		Namespace: "default", Name: "web",
		ClusterIPs: addrs("10.96.0.10", "fd00:96::10"), ExternalIPs: addrs("192.0.2.99"), LoadBalancerIPs: addrs("192.0.2.10", "fd00:c0::10"),
		Ports: []service.Port{
			{Name: "http", Protocol: service.TCP, Port: 80, NodePort: 30080},
			{Name: "dns", Protocol: service.UDP, Port: 53}, {Name: "assoc", Protocol: service.SCTP, Port: 9},
		},
		Affinity: time.Minute, ExternalLocal: true, InternalLocal: true,
		SourceRanges: prefixes("203.0.113.0/24", "fd00::/8"), HealthCheckNodePort: 31000,
		NodePortNICs: service.InternalNIC | service.ExternalNIC,
	}
	if diff := cmp.Diff(want, got, equalAddrs); !ok || diff != "" {
		t.Errorf("service, served %v (-want +got):\n%s", ok, diff)
	}
}

func TestServiceNotServed(t *testing.T) {
	tests := []struct{ name, spec string }{
		{"headless", `{clusterIP: None, ports: [{port: 80}]}`},
		{"headless, list alone", `{clusterIPs: [None], ports: [{port: 80}]}`},
		{"ExternalName", `{type: ExternalName, externalName: db.example, clusterIP: 10.96.0.1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ok, err := Service(read[corev1.Service](t, `{metadata: {name: x}, spec: `+tt.spec+`}`))
			checkErr(t, err)
			if ok {
				t.Error("want it not served")
			}
		})
	}
	_, ok, err := Service(read[corev1.Service](t, `{metadata: {name: x}, spec: {ports: [{port: 80}]}}`))
	if checkErr(t, err, "clusterIPs: has none"); ok {
		t.Error("want a Service without ClusterIP not served")
	}
	for _, proxy := range []string{"mesh", `""`} {
		other := read[corev1.Service](t, `{metadata: {name: x, labels: {service.kubernetes.io/service-proxy-name: `+proxy+`}}, spec: {clusterIP: 10.96.0.1}}`)
		if _, ok, _ := Service(other); ok {
			t.Errorf("want the Service of another proxy, %s, not served", proxy)
		}
	}
}

func TestServicePieces(t *testing.T) {
	base := func(change func(*service.Service)) service.Service {
		s := service.Service{
			Namespace: "d", Name: "x", ClusterIPs: addrs("10.96.0.1"),
			Ports: []service.Port{{Protocol: service.TCP, Port: 80}},
		}
		change(&s)
		return s
	}
	tests := []struct {
		name, spec, status string
		want               service.Service
		err                []string
	}{
		{"default affinity", `sessionAffinity: ClientIP`, ``, base(func(s *service.Service) { s.Affinity = 3 * time.Hour }), nil},
		{"external policy of a closed Service", `externalTrafficPolicy: Local`, ``, base(func(*service.Service) {}), nil},
		{"external policy with externalIPs", "externalTrafficPolicy: Local\n  externalIPs: [192.0.2.1]", ``,
			base(func(s *service.Service) { s.ExternalLocal, s.ExternalIPs = true, addrs("192.0.2.1") }), nil},
		{"health check of policy Cluster", "type: LoadBalancer\n  healthCheckNodePort: 31000", ``, base(func(*service.Service) {}), nil},
		{"a bad external address", `externalIPs: [192.0.2.300, "::ffff:192.0.2.1", 192.0.2.2]`, ``,
			base(func(s *service.Service) { s.ExternalIPs = addrs("192.0.2.2") }), []string{`externalIPs: "192.0.2.300"`, "::ffff"}},
		{"a bad ingress address", ``, `status: {loadBalancer: {ingress: [{ip: x}, {ip: 192.0.2.1}]}}`,
			base(func(s *service.Service) { s.LoadBalancerIPs = addrs("192.0.2.1") }), []string{`ingress: "x"`}},
		{"a bad range beside a good one", `loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.0/99]`, ``,
			base(func(s *service.Service) { s.SourceRanges = prefixes("10.0.0.0/8") }), []string{"10.0.0.0/99"}},
		{"bad ranges alone let nobody in", `loadBalancerSourceRanges: [everybody]`, ``,
			base(func(s *service.Service) { s.SourceRanges = prefixes("0.0.0.0/32", "::/128") }), []string{"everybody"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := Service(read[corev1.Service](t, "metadata: {namespace: d, name: x}\nspec:\n  clusterIP: 10.96.0.1\n  ports: [{port: 80}]\n  "+tt.spec+"\n"+tt.status))
			checkErr(t, err, tt.err...)
			if diff := cmp.Diff(tt.want, got, equalAddrs); !ok || diff != "" {
				t.Errorf("service, served %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func TestServicePorts(t *testing.T) {
	got, err := servicePorts([]corev1.ServicePort{
		{Name: "a", Port: 0}, {Name: "b", Port: 80, Protocol: "QUIC"}, {Name: "c", Port: 81, NodePort: 70000}, {Name: "d", Port: 82},
	})
	checkErr(t, err, `port "a": port 0`, `port "b": protocol "QUIC"`, `port "c": node port 70000`)
	want := []service.Port{{Name: "c", Protocol: service.TCP, Port: 81}, {Name: "d", Protocol: service.TCP, Port: 82}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}

func TestNodePortNICs(t *testing.T) {
	_, err := nodePortNICs("internal,wifi")
	checkErr(t, err, "patchbay.net/nodeport-nics", "wifi")
}

func TestUDPMode(t *testing.T) {
	for mode, want := range map[string]bool{"": false, "flow": false, "packet": true} {
		if got, err := udpPerPacket(mode); got != want || err != nil {
			t.Errorf("%q: got %v, %v, want %v", mode, got, err, want)
		}
	}
	_, err := udpPerPacket("stateless")
	checkErr(t, err, "patchbay.net/udp-mode", "stateless")
}

func TestEndpointSliceWhole(t *testing.T) {
	obj := read[discoveryv1.EndpointSlice](t, `
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {port: 53, protocol: UDP}]
endpoints:
- addresses: [10.244.0.5, 10.244.0.6]
  nodeName: n1
  zone: z1
  hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}
- addresses: [10.244.0.7]
  conditions: {ready: false, serving: true, terminating: true}
`)
	got, err := EndpointSlice(obj, Ranges{})
	checkErr(t, err)
	first := service.Endpoint{
		Addr: netip.MustParseAddr("10.244.0.5"), Port: 8080, Protocol: service.TCP, PortName: "http", Node: "n1",
		Ready: true, Serving: true, NodeHints: []string{"n1"}, ZoneHints: []string{"z1"},
	}
	second := first
	second.Port, second.Protocol, second.PortName = 53, service.UDP, ""
	third := service.Endpoint{
		Addr: netip.MustParseAddr("10.244.0.7"), Port: 8080, Protocol: service.TCP, PortName: "http", Serving: true, Terminating: true,
	}
	fourth := third
	fourth.Port, fourth.Protocol, fourth.PortName = 53, service.UDP, ""
	if diff := cmp.Diff([]service.Endpoint{first, second, third, fourth}, got, equalAddrs); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

func TestEndpointSliceRefusals(t *testing.T) {
	ranges := Ranges{Service: prefixes("10.96.0.0/12", "fd00:96::/108")}
	tests := []struct{ family, addr, err string }{
		{"IPv4", "10.244.0.5", ""},
		{"IPv6", "fd00:244::5", ""},
		{"IPv4", "172.18.0.2", ""},
		{"IPv4", "127.0.0.1", "loopback"},
		{"IPv6", "::1", "loopback"},
		{"IPv4", "169.254.169.254", "link-local"},
		{"IPv6", "fe80::1", "link-local"},
		{"IPv4", "224.0.0.251", "multicast"},
		{"IPv6", "ff02::fb", "multicast"},
		{"IPv4", "0.0.0.0", "unspecified"},
		{"IPv6", "::", "unspecified"},
		{"IPv4", "fd00:244::5", "addressType"},
		{"IPv6", "10.244.0.5", "addressType"},
		{"IPv6", "::ffff:10.244.0.5", "not a plain address"},
		{"IPv6", "fe80::1%eth0", "not a plain address"},
		{"IPv4", "10.96.0.10", "range of Services"},
		{"IPv6", "fd00:96::10", "range of Services"},
		{"IPv4", "somewhere", "not an address"},
	}
	for _, tt := range tests {
		t.Run(tt.family+" "+tt.addr, func(t *testing.T) {
			obj := read[discoveryv1.EndpointSlice](t, `
addressType: `+tt.family+`
ports: [{port: 80}]
endpoints: [{addresses: ["`+tt.addr+`"]}]
`)
			got, err := EndpointSlice(obj, ranges)
			if tt.err == "" {
				checkErr(t, err)
				if len(got) != 1 {
					t.Errorf("want one endpoint, got %d", len(got))
				}
				return
			}
			checkErr(t, err, "endpoint 0", tt.err)
			if len(got) != 0 {
				t.Errorf("want none, got %v", got)
			}
		})
	}
}

func TestEndpointSliceRestGoesOn(t *testing.T) {
	obj := read[discoveryv1.EndpointSlice](t, `
addressType: IPv4
ports: [{name: a, port: 0}, {name: b}, {name: c, port: 80, protocol: XTP}, {name: d, port: 80}]
endpoints: [{addresses: []}, {addresses: [127.0.0.1]}, {addresses: [10.244.0.5]}]
`)
	got, err := EndpointSlice(obj, Ranges{})
	checkErr(t, err, "port 0: port 0 is not", "port 1: has no number", `port 2: protocol "XTP"`, "endpoint 0: has no address", "endpoint 1: 127.0.0.1")
	if len(got) != 1 || got[0].PortName != "d" || got[0].Addr != netip.MustParseAddr("10.244.0.5") {
		t.Errorf("want the one good endpoint and port, got %v", got)
	}
}

func TestNode(t *testing.T) {
	obj := read[corev1.Node](t, `
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, "fd00:244::/64", x]}
status:
  addresses: [{type: InternalIP, address: 172.18.0.2}, {type: Hostname, address: n1}, {type: InternalIP, address: "fd00:18::2"},
    {type: ExternalIP, address: 192.0.2.2}, {type: InternalIP, address: n1.example}]
`)
	got, err := Node(obj)
	checkErr(t, err, `spec.podCIDRs: "x"`, `status.addresses: "n1.example"`)
	want := NodeInfo{
		Name: "n1", Zone: "z1", InternalIPs: addrs("172.18.0.2", "fd00:18::2"), ExternalIPs: addrs("192.0.2.2"),
		PodCIDRs: prefixes("10.244.0.0/24", "fd00:244::/64"),
	}
	if diff := cmp.Diff(want, got, equalAddrs); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	one, err := Node(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24"}})
	checkErr(t, err)
	if diff := cmp.Diff(prefixes("10.244.1.0/24"), one.PodCIDRs, equalAddrs); diff != "" {
		t.Errorf("podCIDR alone (-want +got):\n%s", diff)
	}
}
