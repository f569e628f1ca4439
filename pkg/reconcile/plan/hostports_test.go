// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/service"
)

func TestHostPorts(t *testing.T) {
	node := addrs("192.168.1.1", "fd00:1::1")
	ports := []HostPort{
		{Port: 8080, ContainerPort: 80, Protocol: service.TCP, Namespace: "d", Pod: "web", Addrs: addrs("10.244.0.5")},
		{Port: 53, ContainerPort: 5353, Protocol: service.UDP, Namespace: "d", Pod: "dns", Addrs: addrs("10.244.0.6", "fd00:244::6"), HostIP: netip.MustParseAddr("fd00:1::1")},
		{Port: 99, ContainerPort: 9, Protocol: service.TCP, Namespace: "d", Pod: "x", Addrs: addrs("10.244.0.7"), HostIP: netip.MustParseAddr("127.0.0.1")},
		{Port: 6443, ContainerPort: 1, Protocol: service.TCP, Namespace: "d", Pod: "thief", Addrs: addrs("10.244.0.8"), HostIP: netip.MustParseAddr("192.168.1.2")},
	}
	var got []string
	for _, e := range Join(nil, HostPorts(ports, "a", node, service.InternalNIC)) {
		got = append(got, fmt.Sprintf("%s → %s socket %v roles %d", e.Frontend, e.Backends[0].Addr, e.SocketLB, e.NodePortRoles))
	}
	want := []string{
		"127.0.0.1:99/TCP cluster → 10.244.0.7:9 socket true roles 3",
		"127.0.0.1:8080/TCP cluster → 10.244.0.5:80 socket true roles 1",
		"192.168.1.1:8080/TCP cluster → 10.244.0.5:80 socket true roles 1",
		"192.168.1.1:8080/TCP external → 10.244.0.5:80 socket false roles 1",
		"[fd00:1::1]:53/UDP cluster → [fd00:244::6]:5353 socket true roles 3",
		"[fd00:1::1]:53/UDP external → [fd00:244::6]:5353 socket false roles 3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestJoin(t *testing.T) {
	entry := func(ip string, name string) service.Entry {
		return service.Entry{Frontend: service.Frontend{Address: service.Address{IP: netip.MustParseAddr(ip), Port: 1}}, Port: service.PortName{Name: name}}
	}
	list := []service.Entry{entry("10.0.0.1", "service"), entry("10.0.0.3", "service")}
	before := slices.Clone(list)
	var got []string
	for _, e := range Join(list, []service.Entry{entry("10.0.0.2", "pod"), entry("10.0.0.1", "pod")}) {
		got = append(got, e.Frontend.IP.String()+" "+e.Port.Name)
	}
	if diff := cmp.Diff([]string{"10.0.0.1 service", "10.0.0.2 pod", "10.0.0.3 service"}, got); diff != "" {
		t.Errorf("joined (-want +got):\n%s", diff)
	}
	if list[0].Frontend != before[0].Frontend || list[1].Frontend != before[1].Frontend {
		t.Error("the list itself was changed")
	}
}
