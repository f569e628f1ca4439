// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// lab is a table with its objects.
type lab struct {
	*Table
	dir     string
	objects *source.Store
	wakes   chan struct{}
}

func newLab(t *testing.T, await bool) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir(), objects: source.NewStore(), wakes: make(chan struct{}, 100)}
	l.Table = New(Options{
		Node: "a", Leases: store.New(filepath.Join(l.dir, "leases.db"), store.Options{}), Gate: filepath.Join(l.dir, "cni.lock"),
		CNIConf: l.dir, Await: await, Log: slog.New(slog.DiscardHandler),
		Wake: func() {
			select {
			case l.wakes <- struct{}{}:
			default:
			}
		},
	})
	return l
}

func (l *lab) pool(name string, spec v1alpha1.IPPoolSpec) {
	l.put(source.KindIPPool, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
}

func (l *lab) block(pool, cidr string, draining bool, revision int64) {
	b := &v1alpha1.IPBlock{ObjectMeta: metav1.ObjectMeta{Name: strings.NewReplacer("/", "-", ":", "-").Replace(cidr)}, Spec: v1alpha1.IPBlockSpec{Pool: pool, Node: "a", CIDR: cidr, Revision: revision}}
	b.Spec.State = v1alpha1.BlockActive
	if draining {
		b.Spec.State = v1alpha1.BlockDraining
	}
	l.put(source.KindIPBlock, b)
}

func (l *lab) put(kind source.Kind, obj source.Object) {
	l.objects.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: source.KeyOf(obj), Object: obj})
}

func (l *lab) sync(t *testing.T) {
	t.Helper()
	if err := l.Sync(t.Context(), parts.Objects{Node: "a", Store: l.objects, Known: true}); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) pod(name string, annotations ...string) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("u-" + name), Annotations: map[string]string{}}}
	for i := 0; i < len(annotations); i += 2 {
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	l.Apply(source.Event{Op: source.Upsert, Kind: source.KindPod, Key: source.KeyOf(pod), Object: pod})
}

func (l *lab) noNamespace() {
	l.Apply(source.Event{Op: source.Delete, Kind: source.KindNamespace, Key: source.Key{Name: "shop"}})
}

func (l *lab) namespace(labels map[string]string, annotations ...string) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: labels, Annotations: map[string]string{}}}
	for i := 0; i < len(annotations); i += 2 {
		ns.Annotations[annotations[i]] = annotations[i+1]
	}
	l.Apply(source.Event{Op: source.Upsert, Kind: source.KindNamespace, Key: source.KeyOf(ns), Object: ns})
}

func (l *lab) plan(ctx context.Context, name string) string {
	plan, err := l.Plan(ctx, agentapi.PodRequest{EndpointKey: agentapi.EndpointKey{ContainerID: name, IfName: "eth0"}, PodNamespace: "shop", PodName: name, PodUID: "u-" + name})
	if err != nil {
		return "error: " + err.Error()
	}
	var out []string
	show := func(pools []agentapi.AddressPool) {
		for _, p := range pools {
			for _, s := range p.Subnets {
				text := s.Prefix.String()
				if s.First.IsValid() {
					text = s.First.String() + " on " + text
				}
				out = append(out, strings.TrimSpace(text+" "+strings.Trim(fmt.Sprint(s.Exclude), "[]")))
			}
		}
	}
	show(plan.Pools)
	for _, leg := range plan.Legs {
		out = append(out, leg.IfName+" at "+leg.Bridge)
		show(leg.Pools)
	}
	return strings.Join(out, "; ")
}

func no() *bool { f := false; return &f }

func (l *lab) fill() {
	l.put(source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.200.0.0/24"}}})
	l.pool("pods", v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.0.0.0/16"}, Exclude: []string{"10.0.0.9", "10.0.1.0/24"}, Gateway: "10.0.0.1"})
	l.pool("pods6", v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"fd00::/64"}})
	l.pool("special", v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.1.0.0/24"}, AutoAssign: no()})
	l.pool("gold", v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.2.0.0/24"}, NamespaceSelector: &v1alpha1.Selector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "gold"}}})
	l.pool("cameras", v1alpha1.IPPoolSpec{Use: v1alpha1.UseNode, Switch: v1alpha1.SwitchExternal, CIDRs: []string{"192.0.2.0/24"}, Ranges: []v1alpha1.IPRange{{First: "192.0.2.10", Last: "192.0.2.19"}}})
	l.pool("shared", v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer, Ranges: []v1alpha1.IPRange{{First: "192.0.2.200", Last: "192.0.2.209"}}})
	l.block("pods", "10.0.0.0/26", false, 0)
	l.block("pods", "10.0.0.64/26", true, 1)
	l.block("pods6", "fd00::/122", false, 0)
	l.block("special", "10.1.0.0/26", false, 0)
	l.block("special", "10.1.0.99/32", false, 0)
	l.block("gold", "10.2.0.0/26", false, 0)
	l.block("cameras", "192.0.2.11/32", false, 0)
	l.namespace(nil)
	l.Apply(source.Event{Op: source.Synced, Kind: source.KindPod})
}

func TestPlan(t *testing.T) {
	addresses, pools, networks := v1alpha1.AnnotationAddresses, v1alpha1.AnnotationPools, v1alpha1.AnnotationNetworks
	const general = "10.0.0.0/26 10.0.0.1/32 10.0.0.9/32; fd00::/122"
	tests := []struct {
		name        string
		annotations []string
		want        string
	}{
		{"nothing asked for", nil, general},
		{"a pool by name, of one family", []string{pools, "special"}, "10.1.0.0/26"},
		{"two pools", []string{pools, "special, pods6"}, "10.1.0.0/26; fd00::/122"},
		{"a fixed address of the node's own block", []string{addresses, "10.0.0.20"}, "10.0.0.20 on 10.0.0.0/26; fd00::/122"},
		{"a fixed address that the node was given", []string{addresses, "10.1.0.99"}, "10.1.0.99 on 10.1.0.99/32; fd00::/122"},
		{"one of several", []string{addresses, "10.1.0.98,10.1.0.99"}, "10.1.0.99 on 10.1.0.99/32; fd00::/122"},
		{"both families", []string{addresses, "10.0.0.20,fd00::7"}, "10.0.0.20 on 10.0.0.0/26; fd00::7 on fd00::/122"},
		{"a leg", []string{networks, "external"}, general + "; net1 at pb-ext; 192.0.2.11 on 192.0.2.0/24"},
		{"a leg in the standard's words", []string{v1alpha1.AnnotationNetworksStandard, "default/external@cam0"}, general + "; cam0 at pb-ext; 192.0.2.11 on 192.0.2.0/24"},
		{"a leg with an address of a pool", []string{networks, `[{"name":"external","ips":["192.0.2.11"]}]`}, general + "; net1 at pb-ext; 192.0.2.11 on 192.0.2.0/24"},
		{"another namespace's pool", []string{pools, "special,gold"}, "error: pool gold is not for the pod's namespace"},
		{"an address of another namespace's pool", []string{addresses, "10.2.0.7"}, "error: address 10.2.0.7 is of pool gold, which isn't for it"},
		{"an excluded address", []string{addresses, "10.0.0.20,10.0.0.9"}, "error: address 10.0.0.9 is kept out of pool pods"},
		{"a gateway", []string{addresses, "10.0.0.1"}, "error: address 10.0.0.1 is kept out of pool pods"},
		{"a LoadBalancer's address", []string{addresses, "192.0.2.200"}, "error: address 192.0.2.200 is of pool shared, which isn't for it"},
		{"an address with a zone", []string{addresses, "fd00::7%eth0"}, `error: annotation patchbay.net/addresses of the pod: "fd00::7%eth0" is not a pod's address`},
		{"bad address", []string{addresses, "x"}, `error: annotation patchbay.net/addresses of the pod: "x" is not a pod's address`},
		{"unknown switch", []string{networks, "other"}, `error: annotation patchbay.net/networks: entry 1: switch "other" is not internal or external`},
		{"the primary's name", []string{networks, "external@eth0"}, "error: annotation patchbay.net/networks: entry 1: interface eth0 is taken"},
		{"no pool for the switch", []string{networks, "internal"}, "error: there is no pool of use Node for the switch internal: name one, or an address"},
		{"a bare address of no pool", []string{networks, `[{"name":"external","ips":["198.51.100.1"]}]`}, "error: address 198.51.100.1 is in no pool of use Node, and the pod's namespace has no annotation patchbay.net/free-addresses: \"true\""},
		{"an address of the other switch", []string{networks, `[{"name":"internal","ips":["192.0.2.11"]}]`}, "error: address 192.0.2.11 is of pool cameras, which is for the switch external, not for internal"},
		{"a pool of the other switch", []string{networks, `[{"name":"internal","pools":["cameras"]}]`}, "error: pool cameras is for the switch external, not for internal"},
		{"unknown key", []string{networks, `[{"name":"external","color":"red"}]`}, `error: annotation patchbay.net/networks: not a list of networks: json: unknown field "color"`},
		{"bandwidth", []string{"kubernetes.io/ingress-bandwidth", "1M"}, "error: annotation kubernetes.io/ingress-bandwidth: bandwidth limits are not supported: packets between pods of a node pass no queue; take the annotation away"},
		{"bandwidth out", []string{"kubernetes.io/egress-bandwidth", "1M"}, "error: annotation kubernetes.io/egress-bandwidth: bandwidth limits are not supported: packets between pods of a node pass no queue; take the annotation away"},
	}
	l := newLab(t, true)
	l.fill()
	l.sync(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l.pod("web", tt.annotations...)
			if got := l.plan(t.Context(), "web"); got != tt.want {
				t.Errorf("plan\n%s, want\n%s", got, tt.want)
			}
		})
	}
	l.namespace(map[string]string{"tier": "gold"})
	l.pod("web", addresses, "10.2.0.7")
	if got := l.plan(t.Context(), "web"); got != "10.2.0.7 on 10.2.0.0/26; fd00::/122" {
		t.Errorf("plan with an address of its namespace's own pool: %s", got)
	}
	l.pod("web")
	if got := l.plan(t.Context(), "web"); got != "10.2.0.0/26; fd00::/122" {
		t.Errorf("plan in a namespace with its own pool: %s", got)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "00-multus.conf"), []byte(`{"type":"multus-shim"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	l.pod("web", v1alpha1.AnnotationNetworksStandard, "whatever")
	if got := l.plan(t.Context(), "web"); got != "10.2.0.0/26; fd00::/122" {
		t.Errorf("plan under a meta-plugin: %s", got)
	}
}

// TestFreeAddresses: an address on a switch that no pool has, and a MAC address, are
// for pods of namespaces that permit it; what others have is for none.
func TestFreeAddresses(t *testing.T) {
	const not = `, and the pod's namespace has no annotation patchbay.net/free-addresses: "true"`
	tests := []struct{ name, leg, refused, permitted string }{
		{"of no pool", `"ips":["172.31.0.9/24"]`, "address 172.31.0.9 is in no pool of use Node" + not, ""},
		{"with a MAC address", `"ips":["192.0.2.11"],"mac":"02:00:00:00:00:07"`, "annotation patchbay.net/networks: entry 1: mac: the" + strings.TrimPrefix(not, ", and the"), ""},
		{"in a pool's network, not of its ranges", `"ips":["192.0.2.50/24"]`, "address 192.0.2.50 is in no pool of use Node" + not, ""},
		{"of no pool, bare", `"ips":["172.31.0.9"]`, "address 172.31.0.9 is in no pool of use Node" + not, "address 172.31.0.9 is in no pool of use Node: write it with its prefix length"},
		{"a pool's for nodes", `"ips":["192.0.2.11"]`, "", ""},
		{"a pool's gateway", `"ips":["192.0.2.1/24"]`, "address 192.0.2.1 is kept out of pool cameras", "address 192.0.2.1 is kept out of pool cameras"},
		{"excluded", `"ips":["192.0.2.12"]`, "address 192.0.2.12 is kept out of pool cameras", "address 192.0.2.12 is kept out of pool cameras"},
		{"a LoadBalancer pool's", `"ips":["192.0.2.201/24"]`, "address 192.0.2.201 is of pool shared, which isn't for it", "address 192.0.2.201 is of pool shared, which isn't for it"},
		{"a pod pool's", `"ips":["10.2.0.3/24"]`, "address 10.2.0.3 is of pool gold, which isn't for it", "address 10.2.0.3 is of pool gold, which isn't for it"},
		{"a node's", `"ips":["192.0.2.100/24"]`, "address 192.0.2.100 is in no pool of use Node" + not, "address 192.0.2.100 is a node's, or of the pods or Services"},
		{"of a node's pods", `"ips":["10.201.0.3/24"]`, "address 10.201.0.3 is in no pool of use Node" + not, "address 10.201.0.3 is a node's, or of the pods or Services"},
		{"a Service's", `"ips":["198.51.100.9/24"]`, "address 198.51.100.9 is in no pool of use Node" + not, "address 198.51.100.9 is a node's, or of the pods or Services"},
		{"of the Services' range", `"ips":["10.96.0.1/24"]`, "address 10.96.0.1 is in no pool of use Node" + not, "address 10.96.0.1 is a node's, or of the pods or Services"},
		{"IPv4 in IPv6", `"ips":["::ffff:192.0.2.1/120"]`, `annotation patchbay.net/networks: entry 1: ips: "::ffff:192.0.2.1/120" is not an interface's address`, `annotation patchbay.net/networks: entry 1: ips: "::ffff:192.0.2.1/120" is not an interface's address`},
	}
	l := newLab(t, true)
	l.Ranges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	l.fill()
	cameras, _ := source.Get[*v1alpha1.IPPool](l.objects, source.KindIPPool, source.Key{Name: "cameras"})
	cameras = cameras.DeepCopy()
	cameras.Spec.Gateway, cameras.Spec.Exclude = "192.0.2.1", []string{"192.0.2.12"}
	l.put(source.KindIPPool, cameras)
	l.put(source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.201.0.0/24"}}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.100"}}}})
	l.put(source.KindService, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"198.51.100.9"}}})
	l.sync(t)
	for _, permitted := range []bool{false, true} {
		l.namespace(nil, v1alpha1.AnnotationFreeAddresses, fmt.Sprint(permitted))
		for _, tt := range tests {
			want := tt.refused
			if permitted {
				want = tt.permitted
			}
			l.pod("web", v1alpha1.AnnotationNetworks, `[{"name":"external",`+tt.leg+`}]`)
			got, refused := strings.CutPrefix(l.plan(t.Context(), "web"), "error: ")
			if refused != (want != "") || refused && got != want {
				t.Errorf("%s, permitted %t: %s, want %q", tt.name, permitted, got, want)
			}
		}
	}
}

func TestPlanFromTheNodesOwnRanges(t *testing.T) {
	l := newLab(t, false)
	l.put(source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.200.0.0/24"}}})
	l.pool("special", v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.1.0.0/24"}, AutoAssign: no()})
	l.block("special", "10.1.0.0/26", false, 0)
	l.sync(t)
	if got := l.plan(t.Context(), "web"); got != "10.200.0.0/24" {
		t.Errorf("plan %s, want the node's own range", got)
	}
}

// TestPoolGoes: the node's own ranges stay while the block of a pool that went is
// still in use.
func TestPoolGoes(t *testing.T) {
	l := newLab(t, false)
	l.put(source.KindNode, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.200.0.0/24"}}})
	l.block("special", "10.1.0.0/26", true, 1)
	l.sync(t)
	if got := l.plan(t.Context(), "web"); got != "10.200.0.0/24" {
		t.Errorf("plan %s, want the node's own range", got)
	}
	if l.said("10.200.0.0/24").CIDR == "" || l.said("10.1.0.0/26").State != v1alpha1.BlockDraining {
		t.Errorf("blocks %+v, want the node's own and the draining one", l.states)
	}
}

// TestPodGoes: what a pod waits for is wanted once, whatever ADDs it had, and no
// more when it is deleted.
func TestPodGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, true)
		l.fill()
		l.Apply(source.Event{Op: source.Synced, Kind: source.KindPod})
		l.pod("web", v1alpha1.AnnotationAddresses, "10.1.0.77")
		wanted := func(want int32) {
			t.Helper()
			l.sync(t)
			var status v1alpha1.NodeNetworkStateStatus
			l.Report(&status)
			got := int32(0)
			for _, w := range status.AddressWants {
				got += w.Count
			}
			if got != want {
				t.Errorf("%d addresses wanted, want %d", got, want)
			}
		}
		l.sync(t)
		for _, sandbox := range []string{"c1", "c2"} {
			key := agentapi.EndpointKey{ContainerID: sandbox, IfName: "eth0"}
			if _, err := l.Plan(t.Context(), agentapi.PodRequest{EndpointKey: key, PodNamespace: "shop", PodName: "web", PodUID: "u-web"}); err == nil {
				t.Error("a plan, want none")
			}
			wanted(1)
		}
		l.Apply(source.Event{Op: source.Delete, Kind: source.KindPod, Key: source.Key{Namespace: "shop", Name: "web"}})
		wanted(0)
	})
}

// TestPlanWaits asks for what the node has no block of: it is reported, and given
// once it is there.
func TestPlanWaits(t *testing.T) {
	l := newLab(t, true)
	l.fill()
	l.sync(t)
	l.pod("web", v1alpha1.AnnotationAddresses, "10.1.0.77")
	done := make(chan string, 1)
	go func() { done <- l.plan(t.Context(), "web") }()
	<-l.wakes
	var status v1alpha1.NodeNetworkStateStatus
	l.Report(&status)
	if w := status.AddressWants; len(w) != 1 || w[0].Address != "10.1.0.77" || w[0].Count != 1 {
		t.Errorf("wants %+v, want the address", w)
	}
	l.block("special", "10.1.0.77/32", false, 0)
	l.sync(t)
	if got := <-done; got != "10.1.0.77 on 10.1.0.77/32; fd00::/122" {
		t.Errorf("plan %s, want the address", got)
	}
	status = v1alpha1.NodeNetworkStateStatus{}
	l.Report(&status)
	if len(status.AddressWants) != 0 {
		t.Errorf("wants %+v, want none any more", status.AddressWants)
	}
}

// TestPodIsAwaited: the pod's own object counts, not an earlier one's of its name.
func TestPodIsAwaited(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(l *lab)
		uid  string
		want string
	}{
		{"it never comes", func(*lab) {}, "u-1", "error: pod shop/web is not known to the agent yet"},
		{"an earlier one is there", func(l *lab) { l.pod("web", v1alpha1.AnnotationPools, "special") }, "u-2", "error: pod shop/web is not known to the agent yet"},
		{"a static pod", func(*lab) {}, "0123abcd", "10.0.0.0/26 10.0.0.1/32 10.0.0.9/32; fd00::/122"},
		{"its namespace never comes", func(l *lab) { l.noNamespace(); l.pod("web") }, "u-web", "error: namespace shop is not known to the agent yet"},
		{"its namespace never comes, it is static", func(l *lab) { l.noNamespace(); l.pod("web") }, "", "error: namespace shop is not known to the agent yet"},
		{"its namespace comes later", func(l *lab) {
			l.noNamespace()
			l.pod("web")
			time.AfterFunc(awaitPod/2, func() { l.namespace(map[string]string{"tier": "gold"}) })
		}, "u-web", "10.2.0.0/26; fd00::/122"},
		{"nothing was ever heard", func(l *lab) { l.Table.pods = source.NewStore() }, "u-1", "10.0.0.0/26 10.0.0.1/32 10.0.0.9/32; fd00::/122"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, true)
				l.fill()
				tt.do(l)
				l.sync(t)
				plan, err := l.Plan(t.Context(), agentapi.PodRequest{PodNamespace: "shop", PodName: "web", PodUID: tt.uid})
				got := fmt.Sprint("error: ", err)
				if err == nil {
					got = ""
					for _, p := range plan.Pools {
						got = strings.TrimPrefix(got+"; "+strings.TrimSpace(p.Subnets[0].Prefix.String()+" "+strings.Trim(fmt.Sprint(p.Subnets[0].Exclude), "[]")), "; ")
					}
				}
				if got != tt.want {
					t.Errorf("plan %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// TestDrain: a block is said to be drained only when no ADD can be under way that
// was told of it before.
func TestDrain(t *testing.T) {
	l := newLab(t, false)
	l.fill()
	l.sync(t)
	gate, err := flock.Take(l.Gate, flock.Shared, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l.block("pods", "10.0.0.0/26", true, 1)
	l.sync(t)
	passed := make(chan error, 1)
	go func() { passed <- l.passGate() }()
	if got := l.said("10.0.0.0/26"); got.Revision != 0 || got.State != v1alpha1.BlockDraining {
		t.Errorf("block %+v, want it not acted on yet", got)
	}
	pool, err := ipam.NewPool("p", ipam.Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/26")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Leases.Allocate(store.Request{Pools: []ipam.Pool{pool}, Rest: ipam.DefaultRest(), Lease: store.Lease{Key: store.Key{ContainerID: "c", IfName: "eth0"}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-passed:
		t.Error("the gate was passed while an ADD was under way")
	default:
	}
	gate.Close()
	if err := <-passed; err != nil {
		t.Fatal(err)
	}
	l.sync(t)
	if got := l.said("10.0.0.0/26"); got.Revision != 1 || got.Used != 1 || got.Free != 59 {
		t.Errorf("block %+v, want it acted on, with one address used and 59 free", got)
	}
}

func (l *lab) said(cidr string) v1alpha1.NodeBlockState {
	var status v1alpha1.NodeNetworkStateStatus
	l.Report(&status)
	for _, b := range status.Blocks {
		if b.CIDR == cidr {
			return b
		}
	}
	return v1alpha1.NodeBlockState{}
}

// TestSteady reports what matters, and not each pod.
func TestSteady(t *testing.T) {
	use := func(used, free int64) v1alpha1.NodeBlockState {
		return v1alpha1.NodeBlockState{CIDR: "c", Used: used, Free: free}
	}
	for _, tt := range []struct {
		was, is v1alpha1.NodeBlockState
		want    bool
	}{
		{use(5, 57), use(5, 57), true}, {use(5, 57), use(8, 54), true}, {use(5, 57), use(9, 53), false}, {use(1, 61), use(0, 62), false},
		{use(0, 62), use(1, 61), false}, {use(48, 14), use(49, 13), false}, {use(9, 53), use(8, 54), true},
	} {
		if got := steady(tt.was, tt.is); got != tt.want {
			t.Errorf("from %d to %d used: steady %t, want %t", tt.was.Used, tt.is.Used, got, tt.want)
		}
	}
}
