// SPDX-License-Identifier: Apache-2.0

// Package remote answers the command line's questions from the objects that
// agents and the controller keep in Kubernetes, for those who are not on a node.
package remote

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
)

// Options say where to read, and for which node.
type Options struct {
	Source source.Source
	Writer source.Writer
	Node   string // empty: the whole cluster
	Name   string // of the source, to show
}

// view is what has been read of some kinds of objects.
type view struct {
	Options
	kinds    []source.Kind
	mu       sync.Mutex
	store    *source.Store
	services *convert.Services
	read     chan struct{} // closed when all is there
	once     sync.Once
	failed   error
}

func newView(o Options, kinds ...source.Kind) *view {
	return &view{Options: o, kinds: source.Distinct(kinds), store: source.NewStore(), services: convert.NewServices(nil), read: make(chan struct{})}
}

// Handler answers like an agent, as far as objects tell. It reads them when it
// is first asked, and goes on to follow them until ctx ends.
func Handler(ctx context.Context, o Options) agentapi.Handler {
	v := newView(o, append(convert.Kinds(), source.KindNodeNetworkState, source.KindIPAllocation, source.KindNodeRoute, source.KindVirtualSwitch, source.KindIPBlock)...)
	pods := newView(o, source.KindPod)
	h := agentapi.Handler{
		agentapi.OpInfo:      ask(ctx, v, v.info),
		agentapi.OpServices:  ask(ctx, v, v.listServices),
		agentapi.OpAddresses: ask(ctx, v, v.addresses),
		agentapi.OpNICs:      ask(ctx, v, v.nics),
		agentapi.OpRoutes:    ask(ctx, v, v.routes),
		agentapi.OpNodes:     ask(ctx, v, v.nodes),
		agentapi.OpSwitches:  ask(ctx, v, v.switches),
		agentapi.OpIPAM:      ask(ctx, v, v.blocks),
		agentapi.OpPods:      ask(ctx, pods, pods.pods),
	}
	v.servePools(ctx, h)
	for op, other := range elsewhere() {
		h[op] = agentapi.Do(func(context.Context, agentapi.None) (agentapi.None, error) {
			return agentapi.None{}, agentapi.Errorf(agentapi.CodeUnknown, "only a node's agent can do that: %s%s", o.there(), other)
		})
	}
	return h
}

// elsewhere are the operations that objects don't answer, with what else may
// help.
func elsewhere() map[agentapi.Op]string {
	return map[agentapi.Op]string{
		agentapi.OpLeases: "", agentapi.OpIPAMRelease: "", agentapi.OpTrace: "", agentapi.OpLost: "", agentapi.OpAddressWhy: "",
		agentapi.OpDrops:        "; patchbay_drops_total among the agents' metrics counts them, too",
		agentapi.OpEvents:       "; kubectl get events -A shows what Kubernetes keeps",
		agentapi.OpNodeDrain:    "; any node's agent can drain another by its name",
		agentapi.OpRouteAdd:     "; or apply a NodeRoute",
		agentapi.OpRouteRemove:  "; or delete the NodeRoute",
		agentapi.OpSwitchCreate: "; or apply a VirtualSwitch", agentapi.OpPortDisable: "; or delete the VirtualSwitch",
	}
}

// there is how to run the command line on the node.
func (o Options) there() string {
	if o.Node == "" {
		return "kubectl -n patchbay-system exec daemonset/patchbayd -- patchbayctl ... (--node names one)"
	}
	return "kubectl -n patchbay-system exec $(kubectl -n patchbay-system get pod -o name -l app.kubernetes.io/name=patchbayd" +
		" --field-selector spec.nodeName=" + o.Node + ") -- patchbayctl ..."
}

// ready has everything read, and returns an error if it can't be in time.
func (v *view) ready(ctx, asked context.Context) error {
	v.once.Do(func() { go v.follow(ctx) })
	asked, cancel := context.WithTimeout(asked, readTime)
	defer cancel()
	select {
	case <-v.read:
		return nil
	case <-asked.Done():
		v.mu.Lock()
		defer v.mu.Unlock()
		return fmt.Errorf("read from %s: %w", v.Name, cmp.Or(v.failed, asked.Err()))
	}
}

// readTime is how long the first reading may take.
const readTime = 15 * time.Second

// ask makes an operation that waits until all has been read.
func ask[T any](ctx context.Context, v *view, f func() (T, error)) agentapi.Func {
	return agentapi.Do(func(asked context.Context, _ agentapi.None) (T, error) {
		if err := v.ready(ctx, asked); err != nil {
			var none T
			return none, err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		return f()
	})
}

// follow reads until ctx ends.
func (v *view) follow(ctx context.Context) {
	done := false
	err := v.Source.Run(ctx, v.kinds, func(ev source.Event) {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, change := range v.store.Changes(ev) {
			v.services.Apply(change)
		}
		if !done && v.store.Synced(v.kinds...) {
			done = true
			close(v.read)
		}
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failed = err
}

// states are the reports of the nodes asked about.
func (v *view) states() ([]*v1alpha1.NodeNetworkState, error) {
	all := source.List[*v1alpha1.NodeNetworkState](v.store, source.KindNodeNetworkState)
	if v.Node == "" {
		return all, nil
	}
	state, ok := source.Get[*v1alpha1.NodeNetworkState](v.store, source.KindNodeNetworkState, source.Key{Name: v.Node})
	if !ok {
		return nil, fmt.Errorf("node %s: its agent has reported nothing", v.Node)
	}
	return []*v1alpha1.NodeNetworkState{state}, nil
}

// of names something of a node: with the node if several are meant.
func (v *view) of(node, name string) string {
	if v.Node != "" {
		return name
	}
	return node + "/" + name
}

// info describes a node, or the cluster: ready if all are.
func (v *view) info() (agentapi.Info, error) {
	states, err := v.states()
	if err != nil {
		return agentapi.Info{}, err
	}
	entries := v.entries()
	i := agentapi.Info{Node: cmp.Or(v.Node, "all nodes"), Role: "seen by Kubernetes", Source: v.Name, Synced: true, Ready: true,
		Counts: agentapi.Counts{Services: v.store.Len(source.KindService), Frontends: len(entries), Nodes: v.store.Len(source.KindNode)}}
	for _, e := range entries {
		i.Counts.Backends += len(e.Backends)
	}
	for _, s := range states {
		if i.Version != "" && i.Version != s.Status.Version {
			i.Problems = append(i.Problems, agentapi.Problem{Object: v.of(s.Name, "version"), Text: "its agent is " + s.Status.Version + ", others are " + i.Version})
		}
		i.Version = s.Status.Version
		i.Counts.Announced += len(s.Status.Announcements)
		for _, b := range s.Status.Blocks {
			if p, err := netip.ParsePrefix(b.CIDR); err == nil {
				i.PodCIDRs = append(i.PodCIDRs, p)
			}
		}
		for _, c := range s.Status.Conditions {
			if wrong := (c.Type == "Ready") != (c.Status == metav1.ConditionTrue); wrong {
				i.Problems = append(i.Problems, agentapi.Problem{Object: v.of(s.Name, c.Type), Text: c.Message, Since: c.LastTransitionTime.Time})
			}
			if c.Type == "Ready" && c.Status != metav1.ConditionTrue {
				i.Ready, i.Reason = false, s.Name+": "+c.Message
			}
		}
	}
	for _, node := range source.List[*corev1.Node](v.store, source.KindNode) {
		if silent := !slices.ContainsFunc(states, func(s *v1alpha1.NodeNetworkState) bool { return s.Name == node.Name }); silent && (v.Node == "" || v.Node == node.Name) {
			i.Ready, i.Reason = false, node.Name+": its agent has reported nothing"
		}
	}
	return i, nil
}

// entries are the frontends as the node has them; as some node without backends
// of its own for the whole cluster.
func (v *view) entries() []service.Entry {
	node, _ := v.services.Node(v.Node)
	return v.services.Entries(node.Service(nil), 0)
}

func (v *view) listServices() ([]agentapi.Service, error) {
	var out []agentapi.Service
	for _, e := range v.entries() {
		out = append(out, show(e))
	}
	return out, nil
}

// show is a frontend as people see it.
func show(e service.Entry) agentapi.Service {
	s := agentapi.Service{
		Namespace: e.Port.Namespace, Name: e.Port.Name, Port: e.Port.Port, Kind: e.Kind.String(), Protocol: e.Frontend.Protocol.String(),
		Frontend: netip.AddrPortFrom(e.Frontend.IP, e.Frontend.Port), Scope: e.Frontend.Scope.String(), Empty: e.Empty.String(),
		Affinity: e.Affinity, SourceRanges: e.SourceRanges,
	}
	for _, b := range e.Backends {
		s.Backends = append(s.Backends, agentapi.Backend(b))
	}
	return s
}

func (v *view) addresses() ([]agentapi.Address, error) {
	announcers := map[string][]string{} // address → node and NIC
	for s := range source.All[*v1alpha1.NodeNetworkState](v.store, source.KindNodeNetworkState) {
		for _, a := range s.Status.Announcements {
			announcers[a.Address] = append([]string{s.Name}, a.Interfaces...)
		}
	}
	var out []agentapi.Address
	for _, a := range source.List[*v1alpha1.IPAllocation](v.store, source.KindIPAllocation) {
		addr, err := netip.ParseAddr(a.Spec.Address)
		if err != nil {
			continue
		}
		view := agentapi.Address{Addr: addr, Pool: a.Spec.Pool, Owner: a.Status.Announcer, Reason: string(a.Spec.State)}
		for _, o := range a.Spec.Owners {
			view.Services = append(view.Services, o.Namespace+"/"+o.Name)
		}
		if by := announcers[a.Spec.Address]; len(by) > 1 {
			view.Owner, view.NIC, view.Announced = by[0], by[1], v.Node == "" || v.Node == by[0]
		}
		out = append(out, view)
	}
	return out, nil
}

func (v *view) nics() ([]agentapi.NIC, error) {
	states, err := v.states()
	if err != nil {
		return nil, err
	}
	var out []agentapi.NIC
	for _, s := range states {
		for _, n := range s.Status.NICs {
			nic := agentapi.NIC{Name: v.of(s.Name, n.Name), Role: n.Role, Reason: n.Reason, MAC: n.MAC, MTU: int(n.MTU), Carrier: n.Carrier}
			for _, text := range n.Addresses {
				if p, err := netip.ParsePrefix(text); err == nil {
					nic.Addrs = append(nic.Addrs, p)
				}
			}
			out = append(out, nic)
		}
	}
	return out, nil
}

func (v *view) routes() ([]agentapi.Route, error) {
	states, err := v.states()
	if err != nil {
		return nil, err
	}
	var out []agentapi.Route
	for _, s := range states {
		for _, r := range s.Status.Routes {
			obj, ok := source.Get[*v1alpha1.NodeRoute](v.store, source.KindNodeRoute, source.Key{Name: r.Name})
			if !ok {
				continue
			}
			route := agentapi.Route{Interface: v.of(s.Name, obj.Spec.Interface), NodeRoute: obj.Name, State: string(r.State), Message: r.Message}
			route.Destination, _ = netip.ParsePrefix(obj.Spec.Destination)
			if addr, err := netip.ParseAddr(obj.Spec.Destination); err == nil {
				route.Destination = netip.PrefixFrom(addr, addr.BitLen())
			}
			route.NextHop, _ = netip.ParseAddr(obj.Spec.NextHop)
			if obj.Spec.Metric != nil {
				route.Metric = int(*obj.Spec.Metric)
			}
			out = append(out, route)
		}
	}
	return out, nil
}
