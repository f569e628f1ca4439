// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/convert"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// fault is a mistake that is put between the objects and the maps, or in them.
type fault struct {
	name    string
	input   func(*service.Input)
	entries func(before, now []service.Entry) []service.Entry
}

// chain takes a node through states, each by the changes from the one before.
type chain struct {
	node    *node
	fault   fault
	tracker *convert.Services
	objects map[source.Key]map[source.Kind]source.Object
	entries []service.Entry
}

// newChain begins with an empty cluster.
func (n *node) newChain(f fault) *chain {
	n.t.Helper()
	c := newTracker(oracle.NewRandom(0).State().ServiceRanges)
	c.node, c.fault = n, f
	n.must(n.services.Set(nil))
	n.forget()
	return c
}

// newTracker returns a chain that writes no maps.
func newTracker(serviceRanges []netip.Prefix) *chain {
	return &chain{
		tracker: convert.NewServices(serviceRanges),
		objects: map[source.Key]map[source.Kind]source.Object{},
	}
}

// become applies what differs, builds, and writes the maps.
func (c *chain) become(s *oracle.State) {
	c.node.t.Helper()
	entries := c.build(s)
	c.node.now = c.node.now.Add(time.Minute) // what rested is used again
	c.node.must(c.node.services.Set(entries))
}

// build applies what differs and returns what the maps are to hold.
func (c *chain) build(s *oracle.State) []service.Entry {
	c.apply(s)
	var nics []netip.Addr
	for _, nic := range s.NICs {
		nics = append(nics, nic.Addrs...)
	}
	self, _ := c.tracker.Node(s.Node)
	info := self.Service(nics)
	c.tracker.SetSuspect(s.Suspect)
	entries := c.tracker.Entries(info, 0)
	if c.fault.input != nil {
		in := c.tracker.Input(info, 0)
		for name, list := range in.Endpoints {
			in.Endpoints[name] = slices.Clone(list)
		}
		c.fault.input(&in)
		entries = service.Build(in)
	}
	if c.fault.entries != nil {
		entries = c.fault.entries(c.entries, slices.Clone(entries))
	}
	c.entries = entries
	return entries
}

// apply tells the tracker what differs from the objects that it knows.
func (c *chain) apply(s *oracle.State) {
	now := map[source.Key]map[source.Kind]source.Object{}
	put := func(kind source.Kind, obj source.Object) {
		key := source.Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
		if now[key] == nil {
			now[key] = map[source.Kind]source.Object{}
		}
		now[key][kind] = obj
		if old := c.objects[key][kind]; old == nil || !reflect.DeepEqual(old, obj) {
			c.tracker.Apply(source.Event{Op: source.Upsert, Kind: kind, Key: key, Object: obj})
		}
	}
	for i, p := range s.Pools {
		put(source.KindIPPool, &v1alpha1.IPPool{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pool%d", i)},
			Spec:       v1alpha1.IPPoolSpec{Use: v1alpha1.UseLoadBalancer, CIDRs: []string{p.String()}},
		})
	}
	for _, n := range s.Nodes {
		put(source.KindNode, n)
	}
	for _, svc := range s.Services {
		put(source.KindService, svc)
	}
	for _, slice := range s.Slices {
		put(source.KindEndpointSlice, slice)
	}
	for key, kinds := range c.objects {
		for kind := range kinds {
			if now[key][kind] == nil {
				c.tracker.Apply(source.Event{Op: source.Delete, Kind: kind, Key: key})
			}
		}
	}
	c.objects = now
}

// differences compares what maps hold of Services with what the oracle says.
func differences(s *oracle.State, have []services.Frontend) error {
	want, got := map[string]string{}, map[string]string{}
	for _, f := range s.Frontends() {
		want[frontendName(f.Addr, f.Protocol, f.Outside)] = wanted(f)
	}
	for _, f := range have {
		got[frontendName(netip.AddrPortFrom(f.IP, f.Port), corev1.Protocol(f.Protocol.String()), f.Scope == service.External)] = describe(f)
	}
	if maps.Equal(want, got) {
		return nil
	}
	var errs []error
	for name, is := range got {
		if want[name] != is {
			errs = append(errs, fmt.Errorf("%s:\n\tgot  %s\n\twant %s", name, is, want[name]))
		}
	}
	for name, is := range want {
		if _, ok := got[name]; !ok {
			errs = append(errs, fmt.Errorf("%s:\n\tnot there, want %s", name, is))
		}
	}
	return errors.Join(errs...)
}

// wanted is what describe must say of a frontend.
func wanted(f oracle.Frontend) string {
	return fmt.Sprintf("%v affinity %v ranges %v sockets %v refuses %v roles %v%v",
		f.Backends, f.Affinity, len(f.SourceRanges) > 0, !f.Outside && len(f.Backends) > 0 && len(f.SourceRanges) == 0,
		!f.Elsewhere, f.Internal, f.External)
}

func frontendName(a netip.AddrPort, p corev1.Protocol, outside bool) string {
	return strings.Join([]string{a.String(), string(p), fmt.Sprint("outside ", outside)}, " ")
}

func describe(f services.Frontend) string {
	return fmt.Sprintf("%v affinity %v ranges %v sockets %v refuses %v roles %v%v",
		f.Backends, f.Affinity, f.Restricted, f.SocketLB, f.Reject,
		f.NodePorts&service.InternalNIC != 0, f.NodePorts&service.ExternalNIC != 0)
}
