// SPDX-License-Identifier: Apache-2.0

package noderoutes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/custom"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// cluster is a writer whose objects a store shows when it is told to.
type cluster struct {
	source.Writer
	mu      sync.Mutex
	objects map[string]*v1alpha1.NodeRoute
	away    error
}

func (c *cluster) Apply(_ context.Context, obj source.Object) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away == nil {
		c.objects[obj.GetName()] = obj.(*v1alpha1.NodeRoute)
	}
	return c.away
}

func (c *cluster) Delete(_ context.Context, _ source.Kind, key source.Key) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away == nil {
		delete(c.objects, key.Name)
	}
	return c.away
}

// lab is a node with a static NIC, in namespaces of its own.
type lab struct {
	net     *netlab.Namespace
	cluster *cluster
	store   *source.Store
	routes  *Routes
}

func newLab(t *testing.T) *lab {
	l := &lab{net: netlab.Open(t, "/proc/self/ns/net"), cluster: &cluster{objects: map[string]*v1alpha1.NodeRoute{}}, store: source.NewStore()}
	netlab.Wire(t, l.net, "eth1", netlab.New(t), "eth0")
	l.net.Addr(t, "eth1", "192.168.20.10/24")
	l.restart()
	return l
}

// restart is a new agent on the same disk.
func (l *lab) restart() {
	l.routes = New(Options{Path: "/var/lib/patchbay/routes.db", IsNode: true, Writer: l.cluster})
}

// show has the source show the node and the cluster's objects.
func (l *lab) show(t *testing.T) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"role": "worker"}}}
	l.store.Apply(source.Event{Op: source.Upsert, Kind: source.KindNode, Key: source.KeyOf(node), Object: node})
	for _, o := range source.List[*v1alpha1.NodeRoute](l.store, source.KindNodeRoute) {
		if l.cluster.objects[o.Name] == nil {
			l.store.Apply(source.Event{Op: source.Delete, Kind: source.KindNodeRoute, Key: source.KeyOf(o)})
		}
	}
	for _, o := range l.cluster.objects {
		if err := source.Check(o, nil); err != nil {
			t.Fatal(err)
		}
		l.store.Apply(source.Event{Op: source.Upsert, Kind: source.KindNodeRoute, Key: source.KeyOf(o), Object: o})
	}
	l.store.Apply(source.Event{Op: source.Synced, Kind: source.KindNodeRoute})
}

func (l *lab) sync(t *testing.T) error {
	return l.routes.sync(t.Context(), parts.Objects{Node: "a", Store: l.store, Known: true})
}

// want checks what is in force: each route as ip shows it, with the object it is of.
func (l *lab) want(t *testing.T, when string, want ...string) {
	t.Helper()
	kernel := l.net.Exec(t, "ip", "route", "show", "proto", "81")
	var got []string
	listed, err := l.routes.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range listed {
		if r.State == string(custom.Applied) && strings.Contains(kernel, r.Destination.String()) {
			got = append(got, fmt.Sprintf("%s %s", r.Destination, r.NodeRoute))
		}
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") || strings.Count(kernel, "\n") != len(want) {
		t.Errorf("%s: in force are %q, want %q; kernel:\n%s", when, got, want, kernel)
	}
}

func camera() agentapi.RouteAdd {
	return agentapi.RouteAdd{Interface: "eth1", Destination: "192.168.60.0/24", NextHop: "192.168.20.1"}
}

// A route that was given before there was a cluster is all nodes' once there is.
func TestGivenBeforeTheCluster(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if _, err := l.routes.Add(camera()); err != nil {
			t.Fatal(err)
		}
		l.want(t, "added", "192.168.60.0/24 ")
		l.restart()
		if err := l.sync(t); err != nil { // nothing is known yet
			t.Fatal(err)
		}
		l.want(t, "new agent, no cluster", "192.168.60.0/24 ")
		if len(l.cluster.objects) != 0 {
			t.Errorf("published before the cluster is known")
		}
		l.show(t)
		l.cluster.away = errors.New("the API server is away")
		if err := l.sync(t); err == nil || !strings.Contains(err.Error(), "is away") {
			t.Errorf("sync: %v, want that the API server is away", err)
		}
		l.cluster.away = nil
		name := objectName(custom.Route{Interface: "eth1", Dst: mustParse(t, "192.168.60.0/24")})
		for range 2 { // the source lags behind
			if err := l.sync(t); err != nil {
				t.Fatal(err)
			}
			l.want(t, "published", "192.168.60.0/24 "+name)
		}
		if o := l.cluster.objects[name]; o == nil || o.Spec.NextHop != "192.168.20.1" || *o.Spec.Metric != 100 {
			t.Errorf("published: %+v", l.cluster.objects)
		}
		l.restart()
		l.store = source.NewStore()
		if err := l.sync(t); err != nil {
			t.Fatal(err)
		}
		l.want(t, "new agent, API server away", "192.168.60.0/24 "+name)
		l.show(t)
		if err := l.sync(t); err != nil {
			t.Fatal(err)
		}
		removed, err := l.routes.Remove(t.Context(), agentapi.RouteRemove{Interface: "eth1", Destination: "192.168.60.0/24"})
		if err != nil || len(removed) != 1 || len(l.cluster.objects) != 0 {
			t.Errorf("remove: %+v, %v; objects %v", removed, err, l.cluster.objects)
		}
		if err := l.sync(t); err != nil { // the source still shows it
			t.Fatal(err)
		}
		l.want(t, "removed")
	})
}

func mustParse(t *testing.T, text string) netip.Prefix {
	t.Helper()
	p, err := parseDestination(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestObjects(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		set := func(name, destination string, selector *v1alpha1.Selector) {
			l.cluster.objects[name] = &v1alpha1.NodeRoute{ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: v1alpha1.NodeRouteSpec{Interface: "eth1", Destination: destination, NextHop: "192.168.20.1", NodeSelector: selector}}
		}
		label := func(v v1alpha1.LabelValue) *v1alpha1.Selector {
			return &v1alpha1.Selector{MatchLabels: map[string]v1alpha1.LabelValue{"role": v}}
		}
		step := func(when string, want ...string) {
			t.Helper()
			l.show(t)
			if err := l.sync(t); err != nil {
				t.Fatal(err)
			}
			l.want(t, when, want...)
		}
		set("all", "10.1.0.0/16", nil)
		set("workers", "10.2.0.0/16", label("worker"))
		set("others", "10.3.0.0/16", label("plant"))
		step("three", "10.1.0.0/16 all", "10.2.0.0/16 workers")
		delete(l.cluster.objects, "all")
		set("workers", "10.4.0.0/16", label("worker"))
		step("changed", "10.4.0.0/16 workers")

		add := func(a agentapi.RouteAdd) error { _, err := l.routes.Add(a); return err }
		own := agentapi.RouteAdd{Interface: "eth1", Destination: "10.5.0.0/16", NextHop: "192.168.20.1", NodeOnly: true}
		if err := add(own); err != nil {
			t.Fatal(err)
		}
		step("one for this node", "10.5.0.0/16 ", "10.4.0.0/16 workers")
		if len(l.cluster.objects) != 2 {
			t.Errorf("a route for this node was published: %v", l.cluster.objects)
		}
		own.Destination, own.Metric = "10.4.0.0/16", 50
		if err := add(own); !errors.Is(err, custom.ErrRefused) || !strings.Contains(err.Error(), "by NodeRoute workers") {
			t.Errorf("duplicate: %v", err)
		}
		l.routes.Folder = true
		_, err := l.routes.Remove(t.Context(), agentapi.RouteRemove{Interface: "eth1", Destination: "10.4.0.0/16"})
		if !errors.Is(err, custom.ErrRefused) || !strings.Contains(err.Error(), "remove it from the folder") {
			t.Errorf("remove of what is the operator's: %v", err)
		}
		set("none", "10.6.0.0/16", nil)
		l.cluster.objects["none"].Spec.NextHop = "172.16.0.1"
		step("a refused one", "10.5.0.0/16 ", "10.4.0.0/16 workers")
		var status v1alpha1.NodeNetworkStateStatus
		l.routes.report(&status)
		if n := len(status.Routes); n != 3 || status.Routes[1].State != v1alpha1.RouteRefused || !strings.Contains(status.Routes[1].Message, "not on the link") {
			t.Errorf("report: %+v", status.Routes)
		}
		if err := (&v1alpha1.NodeNetworkState{Status: status}).Validate(); err != nil {
			t.Error(err)
		}
	})
}

func TestRefusedBeforeAnything(t *testing.T) {
	r := New(Options{Path: "/dev/null/none", IsNode: true}) // any use of it fails
	for _, tt := range []struct {
		a    agentapi.RouteAdd
		want string
	}{
		{agentapi.RouteAdd{Interface: "Port3", Destination: "192.168.20.7/24", NextHop: "192.168.20.1"}, "destination: 192.168.20.7/24 has host bits: write 192.168.20.0/24"},
		{agentapi.RouteAdd{Interface: "Port3", Destination: "0.0.0.0/0", NextHop: "192.168.20.1"}, "the default route, which stays the system's"},
		{agentapi.RouteAdd{Interface: "Port3", Destination: "::/0", NextHop: "fe80::1"}, "the default route"},
		{agentapi.RouteAdd{Interface: "Port3", Destination: "192.168.20.0/24", NextHop: "fd00::1"}, "nextHop: fd00::1 must be of the family"},
		{agentapi.RouteAdd{Interface: "Port3", Destination: "cameras"}, "must be an address or a prefix"},
		{agentapi.RouteAdd{Interface: "a/b", Destination: "192.168.20.0/24"}, "must be the name of a network device"},
		{agentapi.RouteAdd{Interface: "Port3", Destination: "192.168.20.0/24", Metric: -1}, "metric"},
		{agentapi.RouteAdd{Interface: "Port3", Destination: "192.168.20.0/24", Metric: 1 << 40}, "metric"},
	} {
		_, err := r.Add(tt.a)
		if !errors.Is(err, custom.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("add %+v: %v, want %q", tt.a, err, tt.want)
		}
	}
}
