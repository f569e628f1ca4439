// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// The churn: services 0 … steadyServices-1 stay, with their first endpoint of
// each family ready throughout; the others come and go.
const (
	churnServices      = 200
	steadyServices     = 160
	endpointsOfService = endpointsOfFamily / churnServices
)

// TestChurn changes 200 Services with 2,000 endpoints at random under traffic:
// by packets from a pod and from outside, then by sockets too. No request to a
// Service with a steady endpoint may fail, or be answered by an endpoint that
// didn't serve then; in the end the maps equal the oracle's answer exactly.
// PATCHBAY_CHURN_TIME=3m makes it longer than 20 s.
func TestChurn(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		limit := 20 * time.Second
		if text := os.Getenv("PATCHBAY_CHURN_TIME"); text != "" {
			var err error
			if limit, err = time.ParseDuration(text); err != nil {
				t.Fatal(err)
			}
		}
		l := newChurnLab(t)
		c := newChurn(l)
		c.write()
		t.Run("packets", func(t *testing.T) { c.run(t, limit/2, l.pod, l.pod, l.away, l.away) })
		mount, err := netlab.CgroupMount()
		l.must(err)
		l.must(l.d.AttachSockets(mount))
		t.Run("sockets", func(t *testing.T) { c.run(t, limit/2, l.pod, l.pod, l.node) })
	})
}

// churn is the changing cluster.
type churn struct {
	lab    *churnLab
	random *oracle.Random
	chain  *chain
	state  *oracle.State

	writing time.Duration // in SetServices

	mu      sync.Mutex
	history map[target][]epoch // of steady Services
}

// target is one Service port in one family.
type target struct {
	service, family int
	protocol        corev1.Protocol
}

// epoch is a time in which exactly these endpoints may answer.
type epoch struct {
	from, to time.Time // to is zero for the present one
	serving  []netip.AddrPort
}

func newChurn(l *churnLab) *churn {
	c := &churn{lab: l, random: oracle.NewRandom(20546), history: map[target][]epoch{}}
	c.chain = newTracker(oracle.NewRandom(0).State().ServiceRanges)
	c.state = &oracle.State{
		Node: "a", Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "near"}}}},
		NICs: []oracle.NIC{{External: true, Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")}}},
	}
	for i := range churnServices {
		c.add(i)
	}
	return c
}

func name(i int) string { return fmt.Sprintf("s%d", i) }

// address is where a Service is reached.
func address(family, i int, external bool) netip.Addr {
	v4, v6 := "10.96.1.%d", "fd00:96::%x"
	if external {
		v4, v6 = "192.0.2.%d", "2001:db8:50::%x"
	}
	if family == 4 {
		return netip.MustParseAddr(fmt.Sprintf(v4, 1+i))
	}
	return netip.MustParseAddr(fmt.Sprintf(v6, 1+i))
}

// port is a Service's own; that of one which comes again differs.
func (c *churn) port(i int) int32 {
	if i < steadyServices {
		return 80
	}
	return 80 + int32(c.random.IntN(5))
}

// add makes a Service and its slices.
func (c *churn) add(i int) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name(i)}}
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	number := c.port(i)
	for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: string(p), Protocol: p, Port: number})
	}
	for _, f := range oracle.Families() {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, address(f, i, false).String())
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: address(f, i, true).String()})
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: fmt.Sprintf("%s-%d", name(i), f),
				Labels: map[string]string{discoveryv1.LabelServiceName: name(i)},
			},
			AddressType: map[int]discoveryv1.AddressType{4: discoveryv1.AddressTypeIPv4, 6: discoveryv1.AddressTypeIPv6}[f],
		}
		target := int32(8080)
		for _, p := range svc.Spec.Ports {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &target})
		}
		for n := range endpointsOfService {
			slice.Endpoints = append(slice.Endpoints, endpointOf(f, i, n))
		}
		c.state.Slices = append(c.state.Slices, slice)
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	c.state.Services = append(c.state.Services, svc)
}

func endpointOf(family, service, number int) discoveryv1.Endpoint {
	node := "a"
	return discoveryv1.Endpoint{
		Addresses: []string{endpointIP(family, service*endpointsOfService+number).String()}, NodeName: &node,
	}
}

// change makes a few changes.
func (c *churn) change() {
	s := &oracle.State{
		Node: c.state.Node, Nodes: c.state.Nodes, NICs: c.state.NICs,
		Services: slices.Clone(c.state.Services), Slices: slices.Clone(c.state.Slices),
	}
	c.state = s
	for range 1 + c.random.IntN(10) {
		switch c.random.IntN(10) {
		case 0:
			c.comeOrGo(steadyServices + c.random.IntN(churnServices-steadyServices))
		case 1:
			c.policy(c.random.IntN(len(s.Services)))
		default:
			c.changeSlice(c.random.IntN(len(s.Slices)))
		}
	}
}

// comeOrGo takes a Service away, or brings it back, maybe with another port.
func (c *churn) comeOrGo(i int) {
	had := len(c.state.Services)
	c.state.Services = slices.DeleteFunc(c.state.Services, func(svc *corev1.Service) bool { return svc.Name == name(i) })
	c.state.Slices = slices.DeleteFunc(c.state.Slices, func(slice *discoveryv1.EndpointSlice) bool {
		return slice.Labels[discoveryv1.LabelServiceName] == name(i)
	})
	if had == len(c.state.Services) || c.random.IntN(2) == 0 {
		c.add(i)
	}
}

// policy changes what doesn't make a steady endpoint unfit: all are on this node.
func (c *churn) policy(at int) {
	svc := c.state.Services[at].DeepCopy()
	c.state.Services[at] = svc
	local, cluster := corev1.ServiceInternalTrafficPolicyLocal, corev1.ServiceInternalTrafficPolicyCluster
	switch c.random.IntN(3) {
	case 0:
		svc.Spec.InternalTrafficPolicy = []*corev1.ServiceInternalTrafficPolicy{&local, &cluster}[c.random.IntN(2)]
	case 1:
		svc.Spec.ExternalTrafficPolicy = []corev1.ServiceExternalTrafficPolicy{"Local", "Cluster"}[c.random.IntN(2)]
	default:
		svc.Spec.SessionAffinity = []corev1.ServiceAffinity{corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP}[c.random.IntN(2)]
	}
}

// changeSlice changes, adds or removes an endpoint, but for the first.
func (c *churn) changeSlice(at int) {
	slice := c.state.Slices[at].DeepCopy()
	c.state.Slices[at] = slice
	yes, no := true, false
	n := 1 + c.random.IntN(endpointsOfService-1)
	if n >= len(slice.Endpoints) {
		var service, family int
		if _, err := fmt.Sscanf(slice.Name, "s%d-%d", &service, &family); err == nil {
			slice.Endpoints = append(slice.Endpoints, endpointOf(family, service, len(slice.Endpoints)))
		}
		return
	}
	switch c.random.IntN(4) {
	case 0:
		slice.Endpoints = slice.Endpoints[:n]
	case 1:
		slice.Endpoints[n].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	case 2:
		slice.Endpoints[n].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
	default:
		slice.Endpoints[n].Conditions = discoveryv1.EndpointConditions{}
	}
}

// write puts the state into the maps, and notes who may answer from when on:
// the new endpoints from before it is written, the old ones until after.
func (c *churn) write() {
	c.lab.t.Helper()
	begin := time.Now()
	fresh := c.serving()
	c.mu.Lock()
	for t, serving := range fresh {
		list := c.history[t]
		if n := len(list); n > 0 && slices.Equal(list[n-1].serving, serving) {
			delete(fresh, t)
			continue
		}
		c.history[t] = append(list, epoch{from: begin, serving: serving})
	}
	c.mu.Unlock()
	entries := c.chain.build(c.state)
	set := time.Now()
	c.lab.must(c.lab.d.SetServices(entries))
	end := time.Now()
	c.writing += end.Sub(set)
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range fresh {
		if list := c.history[t]; len(list) > 1 {
			list[len(list)-2].to = end
		}
	}
}

// serving asks the oracle who may answer for each steady Service.
func (c *churn) serving() map[target][]netip.AddrPort {
	all := map[target][]netip.AddrPort{}
	for _, svc := range c.state.Services {
		var i int
		if _, err := fmt.Sscanf(svc.Name, "s%d", &i); err != nil || i >= steadyServices {
			continue
		}
		for _, f := range oracle.Families() {
			for _, p := range svc.Spec.Ports {
				port := c.state.Port(svc, p, f == 4)
				may := port.Choose().Cluster
				if p.Protocol == corev1.ProtocolUDP { // a client's port may come again within the flow's time: it stays while the endpoint serves
					for _, e := range port.Endpoints {
						if e.Serving && !slices.Contains(may, e.Addr) {
							may = append(may, e.Addr)
						}
					}
				}
				all[target{i, f, p.Protocol}] = may
			}
		}
	}
	return all
}

// run changes and asks for a time, then compares the maps.
func (c *churn) run(t *testing.T, limit time.Duration, clients ...*netlab.Namespace) {
	c.lab.t = t
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var asked, failed atomic.Int64
	var wg sync.WaitGroup
	for n, ns := range clients {
		wg.Go(func() {
			r := oracle.NewRandom(uint64(n))
			err := ns.Do(func() error {
				for ctx.Err() == nil && failed.Load() < 10 {
					asked.Add(1)
					if err := c.request(r, ns == c.lab.away); err != nil {
						failed.Add(1)
						t.Error(err)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	changes, writing := 0, c.writing
	for ctx.Err() == nil {
		c.change()
		c.write()
		changes++
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	wg.Wait()
	t.Logf("%d changes, each written in %v; %d requests, %d failed",
		changes, (c.writing-writing)/time.Duration(max(changes, 1)), asked.Load(), failed.Load())
	if asked.Load() < 100 || changes < 20 {
		t.Errorf("%d requests, %d changes: too few", asked.Load(), changes)
	}
	maps, done, err := pinnedMaps(churnPins)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if err := exact(c.state, maps); err != nil {
		t.Error(err)
	}
}

// request asks some steady Service.
func (c *churn) request(r *oracle.Random, external bool) error {
	to := target{r.IntN(steadyServices), []int{4, 6}[r.IntN(2)], corev1.ProtocolTCP}
	network := "tcp"
	if r.IntN(2) == 0 {
		to.protocol, network = corev1.ProtocolUDP, "udp"
	}
	at := netip.AddrPortFrom(address(to.family, to.service, external), 80)
	begin := time.Now()
	got, err := ask(network, at)
	if err != nil {
		return fmt.Errorf("%s %s after %v: %w", network, at, time.Since(begin), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.history[to] {
		if (e.to.IsZero() || e.to.After(begin)) && slices.Contains(e.serving, netip.AddrPortFrom(got, 8080)) {
			return nil
		}
	}
	return fmt.Errorf("%s %s: %s answered, which didn't serve then", network, at, got)
}
