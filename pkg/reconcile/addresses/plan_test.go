// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// TestPlan: who can have an address and on which NIC here, by what the nodes tell
// of their NICs and by what its Services ask for.
func TestPlan(t *testing.T) {
	told := func(number byte, names ...string) heartbeat.State {
		var s heartbeat.State
		for i, name := range names {
			s.NICs = append(s.NICs, heartbeat.NIC{Name: name, External: true, Carrier: true,
				Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 0, 10*byte(i+1) + number}), 24)}})
		}
		return s
	}
	unplugged := told(1, "lan1", "lan2")
	unplugged.NICs[0].Carrier = false
	for _, tt := range []struct {
		name     string
		own      heartbeat.State
		wish     plan.Wish
		excluded []string
		order    []string
		fixed    int // so many of them have their places by more than the hash
		link     int
	}{
		{"all", told(1, "lan1", "lan2"), plan.Wish{}, nil, []string{"a", "b", "c"}, 0, 1},
		{"its first NIC is unplugged", unplugged, plan.Wish{}, nil, []string{"a", "b", "c"}, 0, 2},
		{"on the second NIC", told(1, "lan1", "lan2"), plan.Wish{NICs: []string{"lan2"}}, nil, []string{"a", "b"}, 0, 2},
		{"on a NIC that only others have", told(1, "lan1"), plan.Wish{NICs: []string{"lan2"}}, nil, []string{"b"}, 0, 0},
		{"on one that nobody has", told(1, "lan1"), plan.Wish{NICs: []string{"lan9"}}, nil, nil, 0, 0},
		{"one is left out", told(1, "lan1"), plan.Wish{}, []string{"a"}, []string{"b", "c", "a"}, 3, 1},
		{"all are left out", told(1, "lan1"), plan.Wish{}, []string{"a", "b", "c"}, []string{"a", "b", "c"}, 0, 1},
		{"preferred", told(1, "lan1"), plan.Wish{Request: announce.Request{Preferred: []string{"c"}}}, nil, []string{"c", "a", "b"}, 1, 1},
		{"where its endpoint is", told(1, "lan1"), plan.Wish{Request: announce.Request{Local: []string{"b"}}}, nil, []string{"b", "a", "c"}, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := quiet(t)
			tt.wish.Addr = vip(100)
			a.known, a.wishes = true, []plan.Wish{tt.wish}
			for _, name := range []string{"a", "b", "c"} {
				a.nodes = append(a.nodes, announce.Node{Name: name, Excluded: slices.Contains(tt.excluded, name)})
			}
			for i, n := range tt.own.NICs {
				a.nics = append(a.nics, nic.NIC{Link: netdev.Link{Index: i + 1, Name: n.Name, Carrier: n.Carrier, Addrs: n.Addrs}, Role: nic.External})
			}
			peer := func(s heartbeat.State) heartbeat.Peer { return heartbeat.Peer{Agent: true, Known: true, State: s} }
			want := a.plan(holder.NewStandings("a").Judge(heartbeat.View{Own: tt.own, Settled: true, Peers: map[string]heartbeat.Peer{
				"b": peer(told(2, "lan1", "lan2")), "c": peer(told(3, "lan1")),
			}}, false))[0]
			for _, rest := range [][]string{want.Order[min(tt.fixed, len(want.Order)):], tt.order[min(tt.fixed, len(tt.order)):]} {
				slices.Sort(rest)
			}
			if !slices.Equal(want.Order, tt.order) || want.Link != tt.link {
				t.Errorf("order %v, on NIC %d; want %v, on %d", want.Order, want.Link, tt.order, tt.link)
			}
		})
	}
}

// TestLocal: the nodes that a Service's packets may come to are those with
// endpoints that are ready, else that end, whichever of them this node itself would choose.
func TestLocal(t *testing.T) {
	store, ready, not := source.NewStore(), true, false
	apply := func(kind source.Kind, obj source.Object) {
		store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
	}
	apply(source.KindIPPool, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.IPPoolSpec{
		Use: v1alpha1.UseLoadBalancer, CIDRs: []string{"192.0.0.0/24"}}})
	v := parts.Objects{Node: "a", Store: store}
	for i, name := range []string{"local", "ending", "cluster"} {
		policy := corev1.ServiceExternalTrafficPolicyLocal
		if name == "cluster" {
			policy = corev1.ServiceExternalTrafficPolicyCluster
		}
		apply(source.KindService, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, Spec: corev1.ServiceSpec{ExternalTrafficPolicy: policy}})
		endpoint := func(node string, is *bool) discoveryv1.Endpoint {
			return discoveryv1.Endpoint{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: is}}
		}
		ends := endpoint("d", &not)
		ends.Conditions.Serving, ends.Conditions.Terminating = &ready, &ready
		list := []discoveryv1.Endpoint{ends, endpoint("c", &not)}
		if name != "ending" {
			list = append(list, endpoint("a", &ready), endpoint("b", nil), endpoint("b", &ready))
		}
		apply(source.KindEndpointSlice, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			Endpoints:  list,
		})
		e := service.Entry{Kind: service.LoadBalancer, Port: service.PortName{Namespace: "d", Name: name}, Backends: []service.Backend{{Node: "a"}}}
		e.Frontend.IP, e.Frontend.Scope = vip(100+i), service.Cluster
		v.Entries = append(v.Entries, e)
	}
	got := wishes(v)
	if len(got) != 3 || !slices.Equal(got[0].Local, []string{"a", "b"}) || !slices.Equal(got[1].Local, []string{"d"}) || got[2].Local != nil {
		t.Errorf("wishes %+v, want the first at a and b, the second where its last one ends, the third anywhere", got)
	}
}
