// SPDX-License-Identifier: Apache-2.0

package why

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/verify"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

var vip, lan = netip.MustParseAddr("192.0.2.200"), netip.MustParsePrefix("192.0.2.1/24")

// world is a cluster where all is well: node a has the address, b looks.
type world struct {
	Input
	pool       *v1alpha1.IPPool
	allocation *v1alpha1.IPAllocation
	service    *corev1.Service
}

func newWorld() *world {
	well := holder.Standing{Alive: true, Steady: true, Told: true, Subnets: []netip.Prefix{lan}}
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	w := &world{
		pool: &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "services"}, Spec: v1alpha1.IPPoolSpec{
			Use: v1alpha1.UseLoadBalancer, Ranges: []v1alpha1.IPRange{{First: "192.0.2.200", Last: "192.0.2.210"}}}},
		allocation: &v1alpha1.IPAllocation{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.200"}, Spec: v1alpha1.IPAllocationSpec{
			Address: vip.String(), Pool: "services", State: v1alpha1.AllocationActive, Owners: []v1alpha1.ServiceReference{{Namespace: "shop", Name: "web"}}}},
		service: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: vip.String()}}}}},
	}
	w.Input = Input{
		Node: "b", ReplyPath: "ingress",
		Addresses: []holder.Address{{Addr: vip, Holder: "a", Epoch: 3}},
		Standings: map[string]holder.Standing{"a": well, "b": well},
		View: heartbeat.View{Peers: map[string]heartbeat.Peer{"a": {Agent: true, Known: true, State: heartbeat.State{
			NICs: []heartbeat.NIC{{Name: "eth1", External: true, Carrier: true, MAC: mac, Addrs: []netip.Prefix{lan}}}}}}},
		Verified: map[netip.Addr]verify.Result{vip: {Addr: vip, By: "b", Owner: "a", AnsweredBy: []string{"a"}}},
		Objects: parts.Objects{
			NICs: []nic.NIC{{Link: netdev.Link{Index: 2, Name: "eth1", Carrier: true, Addrs: []netip.Prefix{lan}}, Role: nic.External}},
			Entries: []service.Entry{{
				Frontend: service.Frontend{Address: service.Address{IP: vip, Port: 80, Protocol: service.TCP}, Scope: service.External},
				Port:     service.PortName{Name: "web", Namespace: "shop"},
				Backends: []service.Backend{{Node: "a"}, {Node: "b"}, {Node: "a"}},
			}},
		},
	}
	return w
}

func (w *world) explain(t *testing.T, q Question) agentapi.Why {
	t.Helper()
	w.Objects.Store = source.NewStore()
	objects := []source.Object{w.service, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}}
	if w.pool != nil {
		objects = append(objects, w.pool)
	}
	if w.allocation != nil {
		objects = append(objects, w.allocation)
	}
	for _, o := range objects {
		kind, err := source.KindOf(o)
		if err != nil {
			t.Fatal(err)
		}
		w.Objects.Store.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(o), Object: o})
	}
	q.Addr = vip
	return Explain(w.Input, q)
}

// asks has the Service ask for the address and say why it hasn't got it.
func (w *world) asks(reason string) {
	w.service.Spec.Type = corev1.ServiceTypeLoadBalancer
	w.service.Annotations = map[string]string{v1alpha1.AnnotationAddresses: vip.String()}
	w.service.Status = corev1.ServiceStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionAddress, Status: metav1.ConditionFalse, Message: reason}}}
	w.Addresses, w.Verified, w.Objects.Entries = nil, nil, nil
}

// stays has the Service's packets stay on the node that they come to: here, on b,
// there is the frontend for those from outside, and that for the cluster.
func (w *world) stays(all ...service.Backend) {
	w.service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	outside := w.Objects.Entries[0]
	inside := outside
	outside.Backends, outside.Empty = nil, service.Drop
	for _, b := range all {
		if b.Node == "b" {
			outside.Backends = append(outside.Backends, b)
		}
	}
	inside.Frontend.Scope, inside.Backends = service.Cluster, all
	w.Objects.Entries = []service.Entry{outside, inside}
}

// TestExplain: whatever is broken, the verdict names the cause, not what only
// shows it.
func TestExplain(t *testing.T) {
	client := netip.MustParseAddr("203.0.113.7")
	gateway := netip.MustParseAddr("192.0.2.9")
	silent := func(port uint16, by ...string) verify.Result {
		return verify.Result{By: "b", Owner: "a", AnsweredBy: by, Ports: []verify.Port{{Port: port, Answer: verify.Silent, Tries: 3}}, Problem: "192.0.2.200:80 answers no connection from b, 3 tried"}
	}
	for _, tt := range []struct {
		name   string
		change func(w *world)
		q      Question
		want   string // of the verdict; of one that is OK if it begins with "ok "
	}{
		{"all well", func(*world) {}, Question{}, "ok a has it, epoch 3; by eth1, 02:00:00:00:00:01, with carrier; 3 behind 192.0.2.200:80/TCP: 2 on a, 1 on b"},
		{"all well, one port", func(*world) {}, Question{Port: 80}, "ok "},
		{"no pool", func(w *world) {
			w.pool.Spec.Ranges[0].First = "192.0.2.201"
			w.allocation = nil
			w.asks("no pool: none has the requested address 192.0.2.200")
		}, Question{}, "pool: no IPPool of use LoadBalancer has it: they have 192.0.2.201-192.0.2.210 (services)"},
		{"no pool at all", func(w *world) { w.pool, w.allocation = nil, nil; w.asks("no pool") }, Question{}, "pool: no IPPool of use LoadBalancer has it: there are none"},
		{"its pool was removed: it is kept", func(w *world) { w.pool = nil }, Question{}, "ok a has it"},
		{"pending: a pool that doesn't admit the Service", func(w *world) {
			w.allocation = nil
			w.asks("no pool: pool services, which has the requested address 192.0.2.200, doesn't admit the Service")
		}, Question{}, "service: shop/web asks for it and hasn't got it: no pool: pool services, which has the requested address 192.0.2.200, doesn't admit the Service"},
		{"pending: being searched for", func(w *world) {
			w.asks("searching the network for other machines with 192.0.2.200")
			w.allocation.Spec.State = v1alpha1.AllocationReserved
		}, Question{}, "allocation: reserved for shop/web since"},
		{"pending: another machine has it", func(w *world) {
			w.asks("address is not free: another machine on the network uses 192.0.2.200")
			w.allocation.Spec.State = v1alpha1.AllocationConflicted
			w.pool.Status.Conflicts = []v1alpha1.AddressConflict{{Address: vip.String(), MAC: "02:00:00:00:00:09", Node: "b"}}
		}, Question{}, "pool: of services, in conflict: 02:00:00:00:00:09 uses it too, seen by b"},
		{"another machine claims it since", func(w *world) {
			w.pool.Status.Conflicts = []v1alpha1.AddressConflict{{Address: vip.String(), MAC: "02:00:00:00:00:09", Node: "b"}}
			w.Verified[vip] = verify.Result{By: "b", Owner: "a", Problem: "192.0.2.200 is answered for by a and 02:00:00:00:00:09"}
		}, Question{}, "pool: of services, in conflict: 02:00:00:00:00:09 uses it too, seen by b"},
		{"nobody's", func(w *world) { w.service.Status = corev1.ServiceStatus{} }, Question{}, "service: no Service has 192.0.2.200"},
		{"no node that could have it", func(w *world) {
			w.Addresses[0] = holder.Address{Addr: vip, Why: "this node can't have it"}
			w.Verified = nil
			w.Standings["a"] = holder.Standing{Alive: true, Told: true, Why: "NIC eth1 has no carrier"}
			w.Standings["b"] = holder.Standing{Alive: true, Told: true, Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}}
		}, Question{}, "owner: no node has it; none can: a: NIC eth1 has no carrier; b: it has no external NIC on the address's network"},
		{"no node that the pool selects", func(w *world) {
			w.Addresses[0] = holder.Address{Addr: vip, Why: "this node can't have it"}
			w.Verified = nil
			w.pool.Spec.NodeSelector = &v1alpha1.Selector{MatchLabels: map[string]v1alpha1.LabelValue{"edge": "yes"}}
		}, Question{}, "owner: no node has it; none can: a: the pool's nodeSelector leaves it out; b: the pool's nodeSelector leaves it out"},
		{"about to be taken", func(w *world) {
			w.Addresses[0] = holder.Address{Addr: vip, Why: "left to a"}
			w.Verified = nil
		}, Question{}, "owner: no node has it; left to a"},
		{"a stranger, found at a takeover", func(w *world) { w.Addresses[0].Stranger = [6]byte{2, 9} }, Question{}, "owner: the machine with 02:09:00:00:00:00 uses the address, and is no node"},
		{"no carrier", func(w *world) {
			w.View.Peers["a"].State.NICs[0].Carrier = false
			w.Verified[vip] = verify.Result{By: "b", Owner: "a", Problem: "nobody answers for 192.0.2.200"}
		}, Question{}, "nic: eth1 of a has no carrier: look at its cable"},
		{"not seen on the wire", func(w *world) {
			w.Verified[vip] = verify.Result{By: "b", Owner: "a", Problem: "nobody answers"}
		}, Question{}, "seen: asked for over the wire by b: nobody answers"},
		{"ours, and not in the kernel", func(w *world) { w.Addresses[0].Holder, w.Addresses[0].Link = "b", 2 }, Question{}, "answers: the datapath of b doesn't answer"},
		{"ours", func(w *world) {
			w.Addresses[0].Holder, w.Addresses[0].Link = "b", 2
			w.Announced = map[netip.Addr]time.Duration{vip: 0}
		}, Question{}, "ok b has it"},
		{"another's, and in our kernel", func(w *world) { w.Announced = map[netip.Addr]time.Duration{vip: 0} }, Question{}, "answers: the datapath of b answers for it, though a has it"},
		{"no endpoints", func(w *world) { w.Objects.Entries[0].Backends = nil }, Question{}, "backends: no endpoint of shop/web is ready: connections to 192.0.2.200:80/TCP are refused"},
		{"no endpoints, and a probe", func(w *world) {
			w.Objects.Entries[0].Backends = nil
			w.Probes = []verify.Result{{By: "b", Owner: "a", AnsweredBy: []string{"a"}, Ports: []verify.Port{{Port: 80, Answer: verify.Refused, Tries: 1}}}}
		}, Question{}, "backends: no endpoint of shop/web is ready"},
		{"Local, endpoints on its node", func(w *world) { w.stays(service.Backend{Node: "a"}) }, Question{}, "ok a has it"},
		{"Local, endpoints on other nodes", func(w *world) {
			w.stays(service.Backend{Node: "b"}, service.Backend{Node: "c"})
		}, Question{}, "backends: a has the address, but no ready endpoint of shop/web, whose packets stay where they come in (externalTrafficPolicy Local); there are 1 on b, 1 on c"},
		{"Local, no endpoints", func(w *world) { w.stays(); w.Probes = []verify.Result{silent(80, "a")} }, Question{},
			"backends: no endpoint of shop/web is ready on any node: packets to 192.0.2.200:80/TCP are dropped (externalTrafficPolicy Local)"},
		{"source ranges leave the client out", func(w *world) {
			w.Objects.Entries[0].SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			w.Probes = []verify.Result{silent(80, "a")}
		}, Question{From: client}, "policy: shop/web lets only sources in 10.0.0.0/8 in: packets from 203.0.113.7 are dropped"},
		{"source ranges let it in", func(w *world) {
			w.Objects.Entries[0].SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		}, Question{From: client}, "ok a has it"},
		{"replies by routes: a wrong gateway", func(w *world) {
			w.ReplyPath, w.Way = "direct", Way{NIC: "eth1", Gateway: gateway, Silent: true}
			w.Probes = []verify.Result{silent(80, "a")}
		}, Question{From: client}, "reply: the route of b to 203.0.113.7 is through 192.0.2.9 by eth1, and nobody there answers: the gateway is wrong or down"},
		{"replies by routes: none", func(w *world) { w.ReplyPath = "direct" }, Question{From: client}, "reply: b has no route to 203.0.113.7"},
		{"replies by routes: well", func(w *world) { w.ReplyPath, w.Way = "direct", Way{NIC: "eth1", Gateway: gateway} }, Question{From: client}, "ok a has it"},
		{"replies of this node itself: a wrong gateway", func(w *world) {
			w.Objects.Entries[0].Backends[1].Addr = netip.AddrPortFrom(lan.Addr(), 80)
			w.Way = Way{NIC: "eth0", Gateway: gateway, Silent: true}
		}, Question{From: client}, "reply: the route of b to 203.0.113.7 is through 192.0.2.9 by eth0"},
		{"replies by the way that they came: a wrong gateway is no matter", func(w *world) {
			w.Way = Way{NIC: "eth0", Gateway: gateway, Silent: true}
		}, Question{From: client}, "ok a has it"},
		{"a stranger answers", func(w *world) {
			w.Probes = []verify.Result{{By: "b", Owner: "a", AnsweredBy: []string{"02:00:00:00:00:09"}, Problem: "192.0.2.200 is answered for by 02:00:00:00:00:09, not by a"}}
		}, Question{}, "probe: 192.0.2.200 is answered for by 02:00:00:00:00:09, not by a (02:00:00:00:00:09 is no node of the cluster: find that machine"},
		{"a probe with no answer", func(w *world) { w.Probes = []verify.Result{silent(80, "a")} }, Question{}, "probe: 192.0.2.200:80 answers no connection from b"},
		{"a port of no Service", func(*world) {}, Question{Port: 81}, "frontend: no Service has port 81 on 192.0.2.200; there are 80/TCP (shop/web)"},
		{"unheard of", func(w *world) { w.Addresses, w.Verified = nil, nil }, Question{}, "owner: no node answers for 192.0.2.200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			tt.change(w)
			got := w.explain(t, tt.q)
			want, ok := strings.CutPrefix(tt.want, "ok ")
			if !strings.HasPrefix(got.Verdict, want) || got.OK != ok {
				t.Errorf("verdict: got %v, %q, want %q\n%+v", got.OK, got.Verdict, tt.want, got.Links)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	w := newWorld()
	w.Standings["a"] = holder.Standing{Alive: false, Why: "it is leaving"}
	got := w.explain(t, Question{}).Candidates
	if len(got) != 2 || got[0].Node != "b" || !got[0].Eligible || got[1].Eligible || !got[1].Owner || got[1].Reason != "it is leaving" {
		t.Errorf("candidates: got %+v", got)
	}
}

// TestProbes: what was seen stands in the chain, with why silence may be no fault.
func TestProbes(t *testing.T) {
	w := newWorld()
	w.Objects.Entries[0].SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	w.Probes = []verify.Result{
		{By: "b", Owner: "a", AnsweredBy: []string{"a"}, Ports: []verify.Port{{Port: 80, Answer: verify.Silent, Tries: 3}}},
		{By: "c", Owner: "a", AnsweredBy: []string{"a"}, Ports: []verify.Port{{Port: 443, Answer: verify.Accepted, Tries: 1}}},
	}
	got := w.explain(t, Question{})
	last := got.Links[len(got.Links)-2:]
	if !got.OK || last[0].State != agentapi.LinkDoubt || last[0].Text != "asked by b just now: answered by a; port 80 silent, as b is no source that shop/web admits" ||
		last[1].Text != "asked by c just now: answered by a; port 443 accepted" || len(got.Probes) != 2 {
		t.Errorf("got %+v", got)
	}
}

// TestService: one that has no address says why, one that has some is explained
// by them.
func TestService(t *testing.T) {
	w := newWorld()
	w.explain(t, Question{})
	name := source.Key{Namespace: "shop", Name: "web"}
	if _, addrs, err := Service(w.Input, name); err != nil || len(addrs) != 1 || addrs[0] != vip {
		t.Errorf("got %v, %v", addrs, err)
	}
	for _, tt := range []struct {
		change func()
		want   string
	}{
		{func() { w.asks("no free address: pool services") }, "service: shop/web has no address: no free address: pool services"},
		{func() { w.service.Status.Conditions = nil }, "service: shop/web has no address: no controller has seen it yet"},
		{func() { w.service.Spec.Type = "" }, "service: shop/web has no address: its type is ClusterIP, not LoadBalancer"},
	} {
		tt.change()
		w.explain(t, Question{})
		got, addrs, err := Service(w.Input, name)
		if err != nil || len(addrs) > 0 || got.OK || !strings.HasPrefix(got.Verdict, tt.want) {
			t.Errorf("got %+v, %v, %v, want %q", got, addrs, err, tt.want)
		}
	}
	if _, _, err := Service(w.Input, source.Key{Namespace: "shop", Name: "none"}); err == nil {
		t.Error("want one that isn't there refused")
	}
}
