// SPDX-License-Identifier: Apache-2.0

package remote_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/remote"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// objects is a source of objects that don't change.
type objects []source.Object

func (o objects) Run(ctx context.Context, kinds []source.Kind, emit func(source.Event)) error {
	for _, obj := range o {
		kind, err := source.KindOf(obj)
		if err != nil {
			return err
		}
		emit(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
	}
	for _, kind := range kinds {
		emit(source.Event{Op: source.Synced, Kind: kind})
	}
	<-ctx.Done()
	return nil
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// site is two nodes, one of which isn't well, and a Service.
func site() objects {
	ready, port, metric := true, int32(8080), int32(50)
	condition := func(ok bool, message string) []metav1.Condition {
		status := metav1.ConditionFalse
		if ok {
			status = metav1.ConditionTrue
		}
		return []metav1.Condition{{Type: "Ready", Status: status, Message: message}}
	}
	meta := metav1.ObjectMeta{Namespace: "default", Name: "web"}
	slice := metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}
	return objects{
		&corev1.Node{ObjectMeta: named("a")}, &corev1.Node{ObjectMeta: named("b")},
		&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}},
		&discoveryv1.EndpointSlice{ObjectMeta: slice, AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}, NodeName: new(string), Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}},
		&v1alpha1.IPAllocation{ObjectMeta: named("192.0.2.10"), Spec: v1alpha1.IPAllocationSpec{Address: "192.0.2.10", Pool: "external", State: "Active",
			Owners: []v1alpha1.ServiceReference{{Namespace: "default", Name: "web"}}}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1"}, Spec: corev1.PodSpec{NodeName: "a"},
			Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.244.0.5"}}}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "host"}, Spec: corev1.PodSpec{NodeName: "a", HostNetwork: true}},
		&v1alpha1.IPPool{ObjectMeta: named("external"), Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer}},
		&v1alpha1.VirtualSwitch{ObjectMeta: named("external"), Spec: v1alpha1.VirtualSwitchSpec{Type: "External", Port: "port3"}},
		&v1alpha1.VirtualSwitch{ObjectMeta: named("internal"), Spec: v1alpha1.VirtualSwitchSpec{Type: "Internal"}},
		&v1alpha1.NodeRoute{ObjectMeta: named("cameras"), Spec: v1alpha1.NodeRouteSpec{Interface: "port3", Destination: "192.168.20.0/24", NextHop: "192.0.2.1", Metric: &metric}},
		&v1alpha1.NodeNetworkState{ObjectMeta: named("a"), Status: v1alpha1.NodeNetworkStateStatus{Version: "v1", Conditions: condition(true, ""),
			NICs:          []v1alpha1.NICState{{Name: "eth0", Role: "internal", Addresses: []string{"10.0.0.1/24"}, Carrier: true}},
			Routes:        []v1alpha1.NodeRouteState{{Name: "cameras", State: "Applied"}},
			Switches:      []v1alpha1.SwitchState{{Name: "external", Device: "eth1", Ready: true}},
			Blocks:        []v1alpha1.NodeBlockState{{CIDR: "10.244.0.0/24", Used: 50, Free: 200}},
			AddressWants:  []v1alpha1.AddressWant{{Pool: "cameras", Count: 1}},
			Announcements: []v1alpha1.AnnouncementState{{Address: "192.0.2.10", Interfaces: []string{"eth1"}}}}},
		&v1alpha1.NodeNetworkState{ObjectMeta: named("b"), Status: v1alpha1.NodeNetworkStateStatus{Version: "v1", Conditions: condition(false, "no internal NIC"),
			NICs: []v1alpha1.NICState{{Name: "eth0", Role: "ignored"}}}},
	}
}

func client(t *testing.T, node string) agentapi.Client {
	return agentapi.Client{Timeout: 5 * time.Second, Handler: remote.Handler(t.Context(), remote.Options{Source: site(), Node: node, Name: "kube"})}
}

func TestCluster(t *testing.T) {
	c := client(t, "")
	info, err := c.Info(t.Context())
	if err != nil || info.Ready || info.Reason != "b: no internal NIC" || len(info.Problems) != 1 || info.Counts.Nodes != 2 || info.Counts.Backends != 1 {
		t.Errorf("info: %+v, %v", info, err)
	}
	services, err := c.Services(t.Context())
	if err != nil || len(services) != 1 || services[0].Frontend != netip.MustParseAddrPort("10.96.0.7:80") || services[0].Backends[0].Addr.String() != "10.244.0.5:8080" {
		t.Errorf("services: %+v, %v", services, err)
	}
	addresses, err := c.Addresses(t.Context())
	if err != nil || len(addresses) != 1 || addresses[0].Owner != "a" || addresses[0].NIC != "eth1" || addresses[0].Services[0] != "default/web" {
		t.Errorf("addresses: %+v, %v", addresses, err)
	}
	nics, err := c.NICs(t.Context())
	if err != nil || len(nics) != 2 || nics[0].Name != "a/eth0" || nics[1].Name != "b/eth0" {
		t.Errorf("NICs: %+v, %v", nics, err)
	}
	routes, err := c.Routes(t.Context())
	if err != nil || len(routes) != 1 || routes[0].Interface != "a/port3" || routes[0].Metric != 50 || routes[0].State != "Applied" {
		t.Errorf("routes: %+v, %v", routes, err)
	}
	pods, err := c.Pods(t.Context())
	if err != nil || len(pods) != 1 || pods[0].PodName != "web-1" || pods[0].Node != "a" || pods[0].Addrs[0].String() != "10.244.0.5" {
		t.Errorf("pods: %+v, %v", pods, err)
	}
	nodes, err := c.Nodes(t.Context())
	if err != nil || len(nodes) != 2 || nodes[0].Life != "unknown" || nodes[1].Problem != "no internal NIC" || len(nodes[0].Held) != 1 {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
	switches, err := c.Switches(t.Context())
	if err != nil || len(switches) != 2 || switches[0].Name != "a/external" || !switches[0].Ready || switches[1].Reason != "no node has reported it" {
		t.Errorf("switches: %+v, %v", switches, err)
	}
	ipam, err := c.IPAM(t.Context())
	if err != nil || len(ipam.Blocks) != 1 || ipam.Blocks[0].Node != "a" || ipam.Blocks[0].Free != 200 || len(ipam.Leaks) != 1 || len(ipam.Waiting) != 1 {
		t.Errorf("IPAM: %+v, %v", ipam, err)
	}
	pools, err := c.Pools(t.Context())
	if err != nil || len(pools) != 1 || pools[0].Owners[0].Service != "default/web" {
		t.Errorf("pools: %+v, %v", pools, err)
	}
}

// What only a node can answer says how to ask it there.
func TestElsewhere(t *testing.T) {
	for node, want := range map[string]string{"": "exec daemonset/patchbayd -- patchbayctl", "a": "--field-selector spec.nodeName=a) -- patchbayctl"} {
		_, err := client(t, node).Leases(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("leases of %q: %v, want %q in it", node, err, want)
		}
	}
	if _, err := client(t, "").AddRoute(t.Context(), agentapi.RouteAdd{}); err == nil || !strings.HasSuffix(err.Error(), "or apply a NodeRoute") {
		t.Errorf("route: %v", err)
	}
}

func TestNode(t *testing.T) {
	c := client(t, "a")
	if info, err := c.Info(t.Context()); err != nil || !info.Ready || info.Node != "a" {
		t.Errorf("info: %+v, %v", info, err)
	}
	if nics, err := c.NICs(t.Context()); err != nil || len(nics) != 1 || nics[0].Name != "eth0" {
		t.Errorf("NICs: %+v, %v", nics, err)
	}
	if _, err := client(t, "c").NICs(t.Context()); err == nil || !strings.Contains(err.Error(), "node c") {
		t.Errorf("a node that isn't: %v", err)
	}
}

// broken is a source that can't be read.
type broken struct{}

func (broken) Run(context.Context, []source.Kind, func(source.Event)) error {
	return errors.New("no route to host")
}

func TestBroken(t *testing.T) {
	c := agentapi.Client{Timeout: 200 * time.Millisecond, Handler: remote.Handler(t.Context(), remote.Options{Source: broken{}, Name: "kube"})}
	if _, err := c.Info(t.Context()); err == nil || !strings.Contains(err.Error(), "read from kube: no route to host") {
		t.Errorf("got %v", err)
	}
}
