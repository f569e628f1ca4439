// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/reconcile/pools"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// nodes are the Nodes, with what their agents have reported. Who is heard can't
// be told from here.
func (v *view) nodes() ([]agentapi.Node, error) {
	var out []agentapi.Node
	for _, n := range source.List[*corev1.Node](v.store, source.KindNode) {
		if v.Node != "" && v.Node != n.Name {
			continue
		}
		node := agentapi.Node{Name: n.Name, Agent: "silent", Life: life(n)}
		if s, ok := source.Get[*v1alpha1.NodeNetworkState](v.store, source.KindNodeNetworkState, source.Key{Name: n.Name}); ok {
			node.Agent = "reported"
			for _, a := range s.Status.Announcements {
				if addr, err := netip.ParseAddr(a.Address); err == nil {
					node.Held = append(node.Held, addr)
				}
			}
			if c := meta.FindStatusCondition(s.Status.Conditions, "Ready"); c != nil && c.Status != "True" {
				node.Problem = cmp.Or(c.Message, c.Reason)
			}
		}
		out = append(out, node)
	}
	return out, nil
}

// life is what Kubernetes thinks of a node.
func life(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return map[corev1.ConditionStatus]string{corev1.ConditionTrue: "alive", corev1.ConditionFalse: "alive", corev1.ConditionUnknown: "dead"}[c.Status]
		}
	}
	return "unknown"
}

// pods are those with addresses of their own, as Kubernetes knows them.
func (v *view) pods() ([]agentapi.Pod, error) {
	var out []agentapi.Pod
	for _, p := range source.List[*corev1.Pod](v.store, source.KindPod) {
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if p.Spec.HostNetwork || ended || p.Spec.NodeName == "" || v.Node != "" && v.Node != p.Spec.NodeName {
			continue
		}
		pod := agentapi.Pod{Node: p.Spec.NodeName, Endpoint: agentapi.Endpoint{PodNamespace: p.Namespace, PodName: p.Name, PodUID: string(p.UID)}}
		for _, ip := range p.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				pod.Addrs = append(pod.Addrs, addr)
			}
		}
		if len(pod.Addrs) == 0 {
			pod.Problem = "it has no address yet"
		}
		out = append(out, pod)
	}
	return out, nil
}

// switches are the VirtualSwitches as each node, or device, has them.
func (v *view) switches() ([]agentapi.Switch, error) {
	states, err := v.states()
	if err != nil {
		return nil, err
	}
	var out []agentapi.Switch
	for _, obj := range source.List[*v1alpha1.VirtualSwitch](v.store, source.KindVirtualSwitch) {
		declared := agentapi.Switch{Name: obj.Name, Type: string(obj.Spec.Type), Port: obj.Spec.Port, Reason: "no node has reported it"}
		if obj.Spec.VLAN != nil {
			declared.VLAN = int(*obj.Spec.VLAN)
		}
		if obj.Spec.MTU != nil {
			declared.MTU = int(*obj.Spec.MTU)
		}
		seen := false
		for _, s := range states {
			if i := slices.IndexFunc(s.Status.Switches, func(st v1alpha1.SwitchState) bool { return st.Name == obj.Name }); i >= 0 {
				st, one := s.Status.Switches[i], declared
				one.Name, one.Bridge, one.Uplink, one.Ready, one.Reason = v.of(s.Name, obj.Name), st.Device, st.Uplink, st.Ready, st.Message
				out, seen = append(out, one), true
			}
		}
		if !seen {
			out = append(out, declared)
		}
	}
	return out, nil
}

// blocks are what the nodes give addresses out of. Leases and interfaces can't be
// compared from here, which is said in place of what doesn't fit.
func (v *view) blocks() (agentapi.IPAM, error) {
	states, err := v.states()
	out := agentapi.IPAM{Leaks: []agentapi.IPAMLeak{{Kind: "unknown", Owner: cmp.Or(v.Node, "all nodes"),
		Text: "a node alone can compare its leases with its interfaces: " + v.there()}}}
	for _, s := range states {
		for _, b := range s.Status.Blocks {
			p, err := netip.ParsePrefix(b.CIDR)
			if err != nil {
				continue
			}
			out.Blocks = append(out.Blocks, agentapi.IPAMBlock{
				Prefix: p, Pool: b.Pool, State: cmp.Or(string(b.State), "Active"), Revision: b.Revision, Used: b.Used, Free: b.Free, Node: s.Name})
		}
		for _, w := range s.Status.AddressWants {
			wait := agentapi.IPAMWait{Pool: w.Pool, Address: w.Address}
			wait.ContainerID = s.Name
			out.Waiting = append(out.Waiting, wait)
		}
	}
	return out, err
}

// servePools lists and drains pools as an agent does, which has no more than the
// objects either.
func (v *view) servePools(ctx context.Context, h agentapi.Handler) {
	list, own := &pools.Pools{Writer: v.Writer}, agentapi.Handler{}
	list.Serve(own)
	for op, f := range own {
		h[op] = func(asked context.Context, body json.RawMessage) (any, error) {
			if err := v.ready(ctx, asked); err != nil {
				return nil, err
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if err := list.Part().Sync(asked, parts.Objects{Store: v.store}); err != nil {
				return nil, err
			}
			return f(asked, body)
		}
	}
}
