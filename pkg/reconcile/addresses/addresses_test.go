// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// fakeDatapath keeps announcements as the kernel would.
type fakeDatapath struct {
	mu   sync.Mutex
	list map[netip.Addr]datapath.Announcement
}

func (f *fakeDatapath) Announce(a datapath.Announcement) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list[a.Addr] = a
	return nil
}

func (f *fakeDatapath) RenewAnnouncement(a datapath.Announcement) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.list[a.Addr]; !ok {
		return datapath.ErrNotAnnounced
	}
	f.list[a.Addr] = a
	return nil
}

func (f *fakeDatapath) Withdraw(a datapath.Announcement) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.list, a.Addr)
	return nil
}

func (f *fakeDatapath) Announcements() ([]datapath.Announcement, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.list)), nil
}

// lab is a node on a network with a client.
type lab struct {
	*Addresses
	t      *testing.T
	here   *netlab.Namespace
	client *netlab.Namespace
	dp     *fakeDatapath
	store  *source.Store
}

func newLab(t *testing.T, entries ...datapath.Announcement) *lab {
	l := &lab{t: t, here: netlab.Open(t, "/proc/self/ns/net"), client: netlab.New(t), dp: &fakeDatapath{list: map[netip.Addr]datapath.Announcement{}}, store: source.NewStore()}
	netlab.Wire(t, l.here, "eth0", l.client, "eth0")
	l.here.Addr(t, "eth0", "192.168.1.1/24")
	l.client.Addr(t, "eth0", "192.168.1.9/24")
	for _, e := range entries {
		e.IfIndex = l.here.Index(t, "eth0")
		l.dp.list[e.Addr] = e
	}
	var err error
	l.Addresses, err = New(Options{
		Node: "a", Port: 7474, Expiry: 30 * time.Second, Datapath: l.dp, Log: slog.New(slog.DiscardHandler),
		Note: func(object string, err error) {
			if err != nil {
				t.Logf("%s: %v", object, err)
			}
		}, Suspect: func(map[string]bool) {}, NICs: func(map[string][]plan.RemoteNIC) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	l.apply(source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	l.apply(source.KindIPPool, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.IPPoolSpec{
		Use: v1alpha1.UseLoadBalancer, Ranges: []v1alpha1.IPRange{{First: "192.168.1.100", Last: "192.168.1.109"}}}})
	return l
}

func (l *lab) apply(kind source.Kind, obj source.Object) {
	l.store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
}

// sync has the part look at the objects, and a Service with the given addresses.
func (l *lab) sync(known bool, vips ...string) {
	l.t.Helper()
	links, err := netdev.Links()
	if err != nil {
		l.t.Fatal(err)
	}
	v := parts.Objects{Node: "a", Store: l.store, Known: known, Computed: known}
	for _, link := range links {
		if link.Name == "eth0" {
			v.NICs = append(v.NICs, nic.NIC{Link: link, Role: nic.External | nic.Internal})
		}
	}
	for _, vip := range vips {
		e := service.Entry{Kind: service.LoadBalancer, Port: service.PortName{Namespace: "d", Name: "web"}}
		e.Frontend.IP, e.Frontend.Port, e.Frontend.Protocol, e.Frontend.Scope = netip.MustParseAddr(vip), 80, service.TCP, service.Cluster
		v.Entries = append(v.Entries, e)
	}
	if err := l.Part().Sync(l.t.Context(), v); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) await(what string, want ...string) {
	l.t.Helper()
	netlab.WaitFor(l.t, 5*time.Second, what, func() error {
		var got []string
		list, _ := l.dp.Announcements()
		for _, a := range list {
			got = append(got, a.Addr.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("announced %v, want %v; %+v", got, want, l.Keeper.Addresses())
		}
		return nil
	})
}

func TestAddresses(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.client.Sysctl(t, "net/ipv4/conf/eth0/arp_accept", "1")
		l.sync(true, "192.168.1.100", "192.168.1.200")
		l.await("the pool's address, and no other", "192.168.1.100")
		list, _ := l.dp.Announcements()
		if list[0].Expires != 0 || list[0].IfIndex != l.here.Index(t, "eth0") {
			t.Errorf("announced %+v, want it on eth0, for ever: there is no other node", list[0])
		}
		netlab.WaitFor(t, 5*time.Second, "the client learns the address from the claim", func() error {
			if out := l.client.Exec(t, "ip", "neigh", "show", "192.168.1.100"); !strings.Contains(out, "lladdr") {
				return fmt.Errorf("neighbours: %q", out)
			}
			return nil
		})
		l.apply(source.KindIPAllocation, &v1alpha1.IPAllocation{ObjectMeta: metav1.ObjectMeta{Name: "x"},
			Spec: v1alpha1.IPAllocationSpec{Address: "192.168.1.101", State: v1alpha1.AllocationReserved}})
		l.apply(source.KindIPAllocation, &v1alpha1.IPAllocation{ObjectMeta: metav1.ObjectMeta{Name: "y"},
			Spec: v1alpha1.IPAllocationSpec{Address: "192.168.1.200", State: v1alpha1.AllocationActive}})
		l.sync(true, "192.168.1.100", "192.168.1.101", "192.168.1.200")
		l.await("an allocated one of no pool, not one that is reserved yet", "192.168.1.100", "192.168.1.200")
		shown, err := l.List()
		if err != nil || len(shown) != 2 || shown[0].Owner != "a" || !shown[0].Announced || shown[0].NIC != "eth0" {
			t.Errorf("shown %+v, %v", shown, err)
		}
		status := v1alpha1.NodeNetworkStateStatus{}
		l.Part().Report(&status)
		if len(status.Announcements) != 2 || status.Announcements[0].Interfaces[0] != "eth0" {
			t.Errorf("reported %+v", status.Announcements)
		}
		l.client.Down(t, "eth0")
		l.Relink()
		l.await("none without carrier")
		l.client.Up(t, "eth0")
		netlab.WaitFor(t, 5*time.Second, "carrier", func() error { l.Relink(); return nil })
		l.await("again", "192.168.1.100", "192.168.1.200")
		l.sync(true)
		l.await("none without Services")
	})
}

// TestNewMAC: what is held on a NIC that gets another MAC is claimed with it at once.
func TestNewMAC(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.client.Sysctl(t, "net/ipv4/conf/eth0/arp_accept", "1")
		l.client.Sysctl(t, "net/ipv4/neigh/eth0/locktime", "0")
		l.sync(true, "192.168.1.100")
		l.await("announced", "192.168.1.100")
		for _, mac := range []string{"02:00:00:00:00:01", "02:00:00:00:00:02"} {
			l.here.Exec(t, "ip", "link", "set", "eth0", "address", mac)
			l.Relink()
			netlab.WaitFor(t, 5*time.Second, "the client learns "+mac, func() error {
				if out := l.client.Exec(t, "ip", "neigh", "show", "192.168.1.100"); !strings.Contains(out, mac) {
					return fmt.Errorf("neighbours: %q", out)
				}
				return nil
			})
		}
	})
}

// TestStranger: an address that another machine uses is left to it, and said.
func TestStranger(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.client.Addr(t, "eth0", "192.168.1.100/24")
		l.sync(true, "192.168.1.100", "192.168.1.101")
		l.await("the free one", "192.168.1.101")
		status := v1alpha1.NodeNetworkStateStatus{}
		l.Part().Report(&status)
		if len(status.Conditions) != 1 || !strings.Contains(status.Conditions[0].Message, "192.168.1.100 is used by ") {
			t.Errorf("conditions %+v, want one that says who uses it", status.Conditions)
		}
		l.client.Exec(t, "ip", "addr", "del", "192.168.1.100/24", "dev", "eth0")
		l.await("both", "192.168.1.100", "192.168.1.101")
	})
}

// TestFound: what an earlier agent left in the kernel is kept, told to nobody
// anew, and dropped only once the objects say so.
func TestFound(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, datapath.Announcement{Addr: netip.MustParseAddr("192.168.1.100")}, datapath.Announcement{Addr: netip.MustParseAddr("192.168.1.101")})
		l.sync(false)
		held := func() string { return fmt.Sprint(len(l.Heartbeat.View().Own.Held), len(l.dp.list)) }
		netlab.WaitFor(t, 5*time.Second, "it listens", func() error {
			if !l.Heartbeat.Awake() {
				return fmt.Errorf("not yet")
			}
			return nil
		})
		if held() != "2 2" {
			t.Errorf("told and announced before the objects are known: %s, want two", held())
		}
		l.sync(true, "192.168.1.100")
		l.await("the one that is wanted", "192.168.1.100")
	})
}
