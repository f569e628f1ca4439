// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/netdev/watch"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// lab is a node in namespaces of its own with a fake datapath.
type lab struct {
	here  *netlab.Namespace
	peer  *netlab.Namespace
	dp    *fakeDatapath
	r     *Reconciler
	cfg   config.Config
	close func()

	writer source.Writer
}

func newLab(t *testing.T, prepare ...func(*fakeDatapath)) *lab {
	t.Helper()
	t.Setenv("NODE_NAME", "")
	l := &lab{here: netlab.Open(t, "/proc/self/ns/net"), peer: netlab.New(t), dp: &fakeDatapath{}}
	netlab.Wire(t, l.here, "eth0", l.peer, "eth0")
	l.here.Addr(t, "eth0", "192.168.1.1/24")
	l.peer.Addr(t, "eth0", "192.168.1.2/24")
	cfg, err := config.Parse([]byte("nodeName: a\npodCIDRs: [10.244.0.0/16]\nserviceCIDRs: [10.96.0.0/16]\n"))
	if err != nil {
		t.Fatal(err)
	}
	l.cfg = cfg
	for _, dir := range []string{cfg.Paths.State, cfg.Paths.Run, cfg.Paths.CNIConf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range prepare {
		f(l.dp)
	}
	l.start(t)
	return l
}

// start starts a reconciler; what an earlier one left is there.
func (l *lab) start(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	l.r = New(Options{
		Config: l.cfg, Datapath: l.dp, Leases: store.New(l.cfg.Paths.Leases(), store.Options{}),
		Writer: l.writer, Version: "test", Log: log,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	r := l.r
	go func() { done <- r.Run(ctx) }()
	go func() { done <- watch.Run(ctx, r.Changed) }()
	l.close = func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func (l *lab) upsert(kind source.Kind, obj source.Object) {
	l.r.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
}

func (l *lab) synced() {
	for _, kind := range l.r.Kinds() {
		l.r.Apply(source.Event{Op: source.Synced, Kind: kind})
	}
}

func node(name, ip, cidr string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}},
	}
}

func web(ip string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	port, name, ready := int32(8080), "", true
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Type: corev1.ServiceTypeLoadBalancer,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80}}},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: ip}}}},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
	return svc, slice
}

// fill gives the objects of a small cluster.
func (l *lab) fill() {
	l.upsert(source.KindNode, node("a", "192.168.1.1", "10.244.0.0/24"))
	l.upsert(source.KindNode, node("b", "192.168.1.2", "10.244.1.0/24"))
	svc, slice := web("192.168.1.100")
	l.upsert(source.KindService, svc)
	l.upsert(source.KindEndpointSlice, slice)
	l.upsert(source.KindIPPool, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.IPPoolSpec{
		Use: v1alpha1.UseLoadBalancer, Ranges: []v1alpha1.IPRange{{First: "192.168.1.100", Last: "192.168.1.109"}}}})
}

func (l *lab) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	netlab.WaitFor(t, 10*time.Second, what, func() error {
		done := false
		l.dp.look(func() { done = ok() })
		if !done {
			return fmt.Errorf("problems: %+v", l.r.problems.List())
		}
		return nil
	})
}

func TestNothingBeforeObjects(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		defer func() { l.close() }()
		l.await(t, "NICs are managed at once", func() bool { return len(l.dp.nics) == 0 && l.r.seen().nics != nil })
		l.fill()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := l.r.AddEndpoint(ctx, pod("c1", 99))
		if typed, ok := errors.AsType[*agentapi.Error](err); !ok || typed.Code != agentapi.CodeTryLater {
			t.Errorf("ADD before the first sync = %v, want code %d", err, agentapi.CodeTryLater)
		}
		l.dp.look(func() {
			if l.dp.sets != 0 || l.dp.routes != nil {
				t.Errorf("services set %d times, routes %v before all objects were known", l.dp.sets, l.dp.routes)
			}
		})
		if _, err := os.Stat(l.cfg.Paths.Conflist()); err == nil {
			t.Error("the CNI configuration is there before the agent is ready")
		}
		l.synced()
		l.await(t, "services in force", func() bool { return len(l.dp.entries) == 3 })
		l.await(t, "routes and peer", func() bool { return len(l.dp.routes) > 3 && len(l.dp.peers) == 1 })
		netlab.WaitFor(t, 5*time.Second, "CNI configuration", func() error { _, err := os.Stat(l.cfg.Paths.Conflist()); return err })
		if since, err := agentapi.LastReady(l.cfg.Paths.Ready()); err != nil || since > time.Minute {
			t.Errorf("ready file: %v, %v", since, err)
		}
		mapped := pod("c1", 99)
		mapped.Ports = []agentapi.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
		if err := l.r.AddEndpoint(t.Context(), mapped); err != nil {
			t.Errorf("ADD: %v", err)
		}
		l.dp.look(func() {
			if len(l.dp.entries) != 3+3 {
				t.Errorf("%d frontends when the ADD returned, want the host port's among them", len(l.dp.entries))
			}
		})
	})
}

func TestSnapshotServesWithoutSource(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.fill()
		l.synced()
		l.await(t, "services in force", func() bool { return len(l.dp.entries) == 3 })
		l.close()
		if err := os.Remove(l.cfg.Paths.Conflist()); err != nil {
			t.Fatal(err)
		}
		l.dp = &fakeDatapath{}
		l.start(t) // after a reboot, with the source unreachable
		defer func() { l.close() }()
		l.await(t, "services in force from the snapshot", func() bool { return len(l.dp.entries) == 3 && len(l.dp.routes) > 3 })
		if !l.r.Synced() {
			netlab.WaitFor(t, time.Second, "synced", func() error {
				if !l.r.Synced() {
					return errors.New("not yet")
				}
				return nil
			})
		}
		// The Service was deleted meanwhile: it goes once the source has spoken, not before.
		l.upsert(source.KindNode, node("a", "192.168.1.1", "10.244.0.0/24"))
		l.synced()
		l.await(t, "the deleted Service is gone", func() bool { return len(l.dp.entries) == 0 })
	})
}

// TestSnapshotIsPatient: after a restart what is in force is newer than the
// snapshot may be; the snapshot counts only if the source stays silent.
func TestSnapshotIsPatient(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.fill()
		l.synced()
		l.await(t, "services in force", func() bool { return len(l.dp.entries) == 3 })
		l.close()
		l.dp.look(func() { l.dp.sets = 0 })
		l.start(t)
		defer func() { l.close() }()
		l.await(t, "the links are looked at", func() bool { return l.r.seen().nics != nil })
		l.dp.look(func() {
			if l.dp.sets != 0 {
				t.Error("the snapshot went before the source")
			}
		})
		l.await(t, "services from the snapshot, as the source is silent", func() bool { return l.dp.sets > 0 })
		if since := time.Since(l.r.started); since < sourceTime {
			t.Errorf("the snapshot counted after %v, want %v", since, sourceTime)
		}
	})
}

func TestFailureIsSaidAndTriedAgain(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		defer func() { l.close() }()
		l.dp.failServices = 1 << 30
		l.fill()
		l.synced()
		l.await(t, "routes in force though services fail", func() bool { return len(l.dp.routes) > 3 && l.dp.entries == nil })
		netlab.WaitFor(t, 5*time.Second, "problem said", func() error {
			for _, p := range l.r.problems.List() {
				if p.Object == "agent/services" && strings.Contains(p.Text, errFake.Error()) {
					return nil
				}
			}
			return fmt.Errorf("problems: %v", l.r.problems.List())
		})
		if l.r.Status().Ready {
			t.Error("ready although Services aren't in force")
		}
		l.dp.look(func() { l.dp.failServices = 1 })
		l.await(t, "services in force at last", func() bool { return len(l.dp.entries) == 3 })
	})
}

// TestRefusedService: a Service that a map has no room for is a problem of its own,
// and holds up nothing else.
func TestRefusedService(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		defer func() { l.close() }()
		l.dp.refuse = "web"
		l.fill()
		l.synced()
		l.await(t, "the rest in force", func() bool { return len(l.dp.entries) == 3 && len(l.dp.routes) > 3 })
		netlab.WaitFor(t, 5*time.Second, "ready, and the Service's problem said", func() error {
			if !l.r.Status().Ready {
				return errors.New("not ready")
			}
			for _, p := range l.r.problems.List() {
				if p.Object == "object Service d/web" && strings.Contains(p.Text, errFake.Error()) {
					return nil
				}
			}
			return fmt.Errorf("problems: %v", l.r.problems.List())
		})
	})
}

// TestRefusedNIC: what can't be attached to stays a NIC, and is tried again.
func TestRefusedNIC(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, func(dp *fakeDatapath) { dp.failNICs = 1 << 30 })
		defer func() { l.close() }()
		l.fill()
		l.synced()
		l.await(t, "the rest in force", func() bool { return len(l.dp.nics) == 0 && len(l.dp.entries) == 3 && len(l.dp.peers) == 1 })
		l.dp.look(func() { l.dp.failNICs = 1 })
		l.await(t, "the NIC in the end", func() bool { return len(l.dp.nics) == 1 })
	})
}

func TestBadObjects(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		defer func() { l.close() }()
		l.fill()
		orphan := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "none-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: "none"}}, AddressType: discoveryv1.AddressTypeIPv4}
		l.upsert(source.KindEndpointSlice, orphan)
		l.r.Apply(source.Event{Op: source.Problem, Kind: source.KindService, Key: source.Key{Namespace: "d", Name: "half"}, Err: errors.New("cut in half")})
		l.synced()
		l.await(t, "the rest goes on", func() bool { return len(l.dp.entries) == 3 })
		said := func() string { return fmt.Sprint(l.r.problems.List()) }
		for _, want := range []string{"d/half", "cut in half", "d/none-1", "d/none is not there"} {
			if !strings.Contains(said(), want) {
				t.Errorf("problems lack %q: %s", want, said())
			}
		}
		svc, _ := web("192.168.1.100")
		svc.Name = "half"
		l.upsert(source.KindService, svc)
		if strings.Contains(said(), "cut in half") {
			t.Errorf("the problem outlives its cause: %s", said())
		}
	})
}

// TestNICsFollowed: a NIC that comes, gets an address, loses its cable and goes
// is followed without a restart.
func TestNICsFollowed(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		defer func() { l.close() }()
		l.fill()
		l.upsert(source.KindIPPool, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.IPPoolSpec{
			Use: v1alpha1.UseLoadBalancer, CIDRs: []string{"203.0.113.0/24"}}})
		svc, _ := web("203.0.113.9")
		l.upsert(source.KindService, svc)
		b := node("b", "192.168.1.2", "10.244.1.0/24")
		b.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
		l.upsert(source.KindNode, b)
		l.synced()
		l.await(t, "eth0 internal", func() bool {
			return len(l.dp.nics) == 1 && l.dp.nics[l.here.Index(t, "eth0")].Role == datapath.Internal
		})
		netlab.Wire(t, l.here, "eth1", l.peer, "eth1")
		l.here.Addr(t, "eth1", "203.0.113.1/24")
		index := l.here.Index(t, "eth1")
		l.await(t, "eth1 external", func() bool { return l.dp.nics[index].Role == datapath.External })
		carrier := func() bool {
			i := slices.IndexFunc(l.r.seen().nics, func(n nic.NIC) bool { return n.Index == index })
			return i >= 0 && l.r.seen().nics[i].Carrier
		}
		l.peer.Down(t, "eth1")
		l.await(t, "no carrier", func() bool { return !carrier() })
		l.peer.Up(t, "eth1")
		l.await(t, "carrier again", carrier)
		l.here.Exec(t, "ip", "link", "del", "eth1")
		l.await(t, "eth1 gone", func() bool { _, there := l.dp.nics[index]; return !there })
	})
}

func pod(id string, index int) agentapi.Endpoint {
	return agentapi.Endpoint{
		EndpointKey: agentapi.EndpointKey{ContainerID: id, IfName: "eth0"}, HostIfName: "pb0123456789a", HostIfIndex: index,
		HostMAC: "02:00:00:00:00:01", MAC: "02:00:00:00:00:02", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.7")}, Generation: 5,
	}
}
