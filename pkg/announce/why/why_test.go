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

func (w *world) explain(t *testing.T, port uint16) agentapi.Why {
	t.Helper()
	w.Objects.Store = source.NewStore()
	for kind, objects := range map[source.Kind][]source.Object{
		source.KindIPPool: {w.pool}, source.KindIPAllocation: {w.allocation}, source.KindService: {w.service},
		source.KindNode: {&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}},
	} {
		for _, o := range objects {
			w.Objects.Store.Changes(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(o), Object: o})
		}
	}
	return Explain(w.Input, vip, port)
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(w *world)
		port   uint16
		want   string // of the verdict; of one that is OK if it begins with "ok "
	}{
		{"all well", func(*world) {}, 0, "ok a has it, epoch 3"},
		{"all well, one port", func(*world) {}, 80, "ok "},
		{"port of no Service", func(*world) {}, 81, "frontend: no Service has port 81"},
		{"in conflict", func(w *world) {
			w.pool.Status.Conflicts = []v1alpha1.AddressConflict{{Address: vip.String(), MAC: "02:00:00:00:00:09", Node: "b"}}
		}, 0, "pool: of services, in conflict: 02:00:00:00:00:09 uses it too, seen by b"},
		{"being probed", func(w *world) { w.allocation.Spec.State = v1alpha1.AllocationReserved }, 0, "allocation: reserved for shop/web"},
		{"nobody's", func(w *world) { w.service.Status = corev1.ServiceStatus{} }, 0, "service: no Service has 192.0.2.200"},
		{"without an owner", func(w *world) {
			w.Addresses[0] = holder.Address{Addr: vip, Why: "no node has an external NIC"}
			w.Verified = nil
		}, 0, "owner: no node has it; no node has an external NIC"},
		{"a stranger", func(w *world) { w.Addresses[0].Stranger = [6]byte{2, 9} }, 0, "owner: the machine with 02:09:00:00:00:00 uses the address"},
		{"no carrier", func(w *world) { w.View.Peers["a"].State.NICs[0].Carrier = false }, 0, "nic: eth1 of a has no carrier"},
		{"not seen on the wire", func(w *world) {
			w.Verified[vip] = verify.Result{By: "b", Owner: "a", Problem: "nobody answers"}
		}, 0, "seen: asked for over the wire by b: nobody answers"},
		{"ours, and not in the kernel", func(w *world) { w.Addresses[0].Holder, w.Addresses[0].Link = "b", 2 }, 0, "answers: the datapath of b doesn't answer"},
		{"ours", func(w *world) {
			w.Addresses[0].Holder, w.Addresses[0].Link = "b", 2
			w.Announced = map[netip.Addr]time.Duration{vip: 0}
		}, 0, "ok b has it"},
		{"another's, and in our kernel", func(w *world) { w.Announced = map[netip.Addr]time.Duration{vip: 0} }, 0, "answers: the datapath of b answers for it, though a has it"},
		{"no backends", func(w *world) { w.Objects.Entries[0].Backends = nil }, 0, "backends: 192.0.2.200:80/TCP has no ready backend"},
		{"unheard of", func(w *world) { w.Addresses = nil }, 0, "owner: 192.0.2.200 is no address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			tt.change(w)
			got := w.explain(t, tt.port)
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
	got := w.explain(t, 0).Candidates
	if len(got) != 2 || got[0].Node != "b" || !got[0].Eligible || got[1].Eligible || !got[1].Owner || got[1].Reason != "it is leaving" {
		t.Errorf("candidates: got %+v", got)
	}
}

func TestAddProbe(t *testing.T) {
	w := newWorld().explain(t, 0)
	Add(&w, verify.Result{By: "b", Owner: "a", AnsweredBy: []string{"a"}, Ports: []verify.Port{{Port: 80, Answer: verify.Accepted, Tries: 1}}})
	if !w.OK || w.Links[len(w.Links)-1].Text != "asked by b just now: answered by a; port 80 accepted" {
		t.Errorf("well: got %+v", w)
	}
	Add(&w, verify.Result{By: "c", Owner: "a", Problem: "nobody answers"})
	if w.OK || w.Verdict != "probe: nobody answers" || len(w.Probes) != 2 {
		t.Errorf("not well: got %+v", w)
	}
}
