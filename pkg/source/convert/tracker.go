// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Services follows a stream of objects and holds what they mean for Services:
// each object is converted once when it changes. Not safe for concurrent use.
//
//	for _, change := range store.Changes(ev) {
//		services.Apply(change)
//	}
//	entries := services.Entries(node, roles)
type Services struct {
	serviceCIDRs []netip.Prefix
	services     map[service.Name]serviceRecord
	slices       map[source.Key]sliceRecord
	ofService    map[service.Name][]source.Key       // its slices, sorted
	endpoints    map[service.Name][]service.Endpoint // merged; absent when to be made anew
	nodes        map[string]nodeRecord
	pools        map[string]poolRecord // of use LoadBalancer
	synced       bool                  // all Services that existed at the start are known
	table        service.Table
	suspect      map[string]bool           // nodes that are likely dead
	changed      map[service.Name]struct{} // since the table was brought up to date
}

type serviceRecord struct {
	value  service.Service
	served bool
	err    error
}

type sliceRecord struct {
	obj       *discoveryv1.EndpointSlice
	service   service.Name // zero if it names none
	endpoints []service.Endpoint
	distinct  bool // none is there twice
	err       error
}

type nodeRecord struct {
	value NodeInfo
	err   error
}

// NewServices returns a tracker that knows no objects. Endpoints in
// serviceCIDRs are refused.
func NewServices(serviceCIDRs []netip.Prefix) *Services {
	return &Services{
		serviceCIDRs: serviceCIDRs,
		services:     map[service.Name]serviceRecord{},
		slices:       map[source.Key]sliceRecord{},
		ofService:    map[service.Name][]source.Key{},
		endpoints:    map[service.Name][]service.Endpoint{},
		nodes:        map[string]nodeRecord{},
		pools:        map[string]poolRecord{},
		changed:      map[service.Name]struct{}{},
	}
}

// Kinds returns the kinds that a tracker wants to see.
func Kinds() []source.Kind {
	return []source.Kind{source.KindService, source.KindEndpointSlice, source.KindNode, source.KindIPPool}
}

// Apply takes a change in, and tells whether Input or Problems may have changed
// by it. Other kinds are ignored.
func (s *Services) Apply(ev source.Event) bool {
	if ev.Op == source.Problem {
		return false
	}
	switch ev.Kind {
	case source.KindService:
		s.applyService(ev)
	case source.KindEndpointSlice:
		s.applySlice(ev)
	case source.KindNode:
		s.applyNode(ev)
	case source.KindIPPool:
		s.applyPool(ev)
	default:
		return false
	}
	return true
}

func (s *Services) applyService(ev source.Event) {
	name := service.Name(ev.Key)
	s.changed[name] = struct{}{}
	switch ev.Op {
	case source.Synced:
		s.synced = true
	case source.Delete:
		delete(s.services, name)
	case source.Upsert:
		if obj, ok := ev.Object.(*corev1.Service); ok {
			value, served, err := Service(obj)
			s.services[name] = serviceRecord{value, served, err}
		}
	}
}

func (s *Services) applySlice(ev source.Event) {
	if ev.Op == source.Synced {
		return
	}
	if old, ok := s.slices[ev.Key]; ok {
		s.unlink(ev.Key, old)
	}
	obj, ok := ev.Object.(*discoveryv1.EndpointSlice)
	if ev.Op == source.Delete || !ok {
		return
	}
	if _, headless := obj.Labels[corev1.IsHeadlessService]; headless {
		return // for DNS alone, as for kube-proxy
	}
	record := s.convertSlice(obj)
	s.slices[ev.Key] = record
	if record.service != (service.Name{}) {
		keys := s.ofService[record.service]
		at, _ := slices.BinarySearchFunc(keys, ev.Key, source.Key.Compare)
		s.ofService[record.service] = slices.Insert(keys, at, ev.Key)
		s.forget(record.service)
	}
}

// unlink forgets a slice.
func (s *Services) unlink(key source.Key, record sliceRecord) {
	delete(s.slices, key)
	s.forget(record.service)
	keys := slices.DeleteFunc(s.ofService[record.service], func(k source.Key) bool { return k == key })
	if len(keys) == 0 {
		delete(s.ofService, record.service)
		return
	}
	s.ofService[record.service] = keys
}

// forget notes that a Service's endpoints are others now.
func (s *Services) forget(name service.Name) {
	delete(s.endpoints, name)
	s.changed[name] = struct{}{}
}

func (s *Services) convertSlice(obj *discoveryv1.EndpointSlice) sliceRecord {
	record := sliceRecord{obj: obj}
	name, ok := SliceService(obj)
	if !ok {
		record.err = fmt.Errorf("has no label %s", discoveryv1.LabelServiceName)
		return record
	}
	record.service = name
	record.endpoints, record.err = EndpointSlice(obj, s.rangesFor(name))
	record.distinct = distinct(record.endpoints)
	return record
}

func (s *Services) putNode(ev source.Event) {
	switch ev.Op {
	case source.Delete:
		delete(s.nodes, ev.Key.Name)
	case source.Upsert:
		if obj, ok := ev.Object.(*corev1.Node); ok {
			value, err := Node(obj)
			s.nodes[ev.Key.Name] = nodeRecord{value, err}
		}
	}
}

// Entries returns what service.Build returns for Input, and computes only what
// changed since it was called last. The caller must not change the result.
func (s *Services) Entries(node service.NodeInfo, nodePortNICs service.NICRoles) []service.Entry {
	s.table.SetNode(s.amongOthers(node), nodePortNICs)
	for name := range s.changed {
		if record := s.services[name]; record.served {
			svc, _ := s.guard(record.value)
			s.table.Set(svc, s.endpointsOf(name))
		} else {
			s.table.Delete(name)
		}
	}
	clear(s.changed)
	return s.table.Entries()
}

// SetSuspect names the nodes that are likely dead: service.Input.Suspect, from
// the next Entries and Input on.
func (s *Services) SetSuspect(nodes map[string]bool) {
	s.suspect = nodes
	s.table.SetSuspect(nodes)
}

// HealthChecks returns what service.HealthChecks returns for Input, without the
// way through all Services' endpoints.
func (s *Services) HealthChecks(node string) []service.HealthCheck {
	in := service.Input{Node: service.NodeInfo{Name: node}, Endpoints: map[service.Name][]service.Endpoint{}}
	for name, record := range s.services {
		if record.served && record.value.HealthCheckNodePort != 0 {
			in.Services = append(in.Services, record.value)
			in.Endpoints[name] = s.endpointsOf(name)
		}
	}
	return service.HealthChecks(in)
}

// Input returns what service.Build needs for the node with these roles and
// addresses. Endpoints of Services that aren't there are kept aside. The result
// shares the tracker's endpoints; it stays as it is while the tracker goes on.
func (s *Services) Input(node service.NodeInfo, nodePortNICs service.NICRoles) service.Input {
	in := service.Input{
		Node: s.amongOthers(node), NodePortNICs: nodePortNICs, Suspect: s.suspect,
		Services:  make([]service.Service, 0, len(s.services)),
		Endpoints: make(map[service.Name][]service.Endpoint, len(s.services)),
	}
	for name, record := range s.services {
		if record.served {
			svc, _ := s.guard(record.value)
			in.Services = append(in.Services, svc)
			in.Endpoints[name] = s.endpointsOf(name)
		}
	}
	return in
}

// amongOthers returns node with the addresses of all others. An address that is
// also its own is its own.
func (s *Services) amongOthers(node service.NodeInfo) service.NodeInfo {
	node.Others = nil
	for _, other := range s.Nodes() {
		if other.Name == node.Name {
			continue
		}
		for _, addr := range other.addrs() {
			if !slices.Contains(node.Addrs, addr) {
				node.Others = append(node.Others, addr)
			}
		}
	}
	return node
}

func (s *Services) endpointsOf(name service.Name) []service.Endpoint {
	if merged, ok := s.endpoints[name]; ok {
		return merged
	}
	merged := s.merge(name)
	s.endpoints[name] = merged
	return merged
}

// merge joins the slices of a Service. An endpoint that is there twice is on its
// way from one slice to another, or its address was given to a new pod: what
// doesn't terminate counts, then what is ready.
func (s *Services) merge(name service.Name) []service.Endpoint {
	keys := s.ofService[name]
	if len(keys) == 1 && s.slices[keys[0]].distinct {
		return s.slices[keys[0]].endpoints
	}
	var merged []service.Endpoint
	at := map[identity]int{}
	for _, key := range keys {
		for _, ep := range s.slices[key].endpoints {
			id := identityOf(&ep)
			i, ok := at[id]
			if !ok {
				at[id] = len(merged)
				merged = append(merged, ep)
			} else if better(ep, merged[i]) {
				merged[i] = ep
			}
		}
	}
	return merged
}

// identity is what makes two endpoints the same.
type identity struct {
	addr netip.AddrPort
	port string
	prot service.Protocol
}

func identityOf(ep *service.Endpoint) identity {
	return identity{netip.AddrPortFrom(ep.Addr, ep.Port), ep.PortName, ep.Protocol}
}

// distinct tells whether no endpoint is there twice.
func distinct(endpoints []service.Endpoint) bool {
	seen := make(map[identity]struct{}, len(endpoints))
	for i := range endpoints {
		seen[identityOf(&endpoints[i])] = struct{}{}
	}
	return len(seen) == len(endpoints)
}

func better(a, b service.Endpoint) bool {
	if a.Terminating != b.Terminating {
		return b.Terminating
	}
	return a.Ready && !b.Ready
}

// Node returns what the Node object of that name says.
func (s *Services) Node(name string) (NodeInfo, bool) {
	record, ok := s.nodes[name]
	return record.value, ok
}

// Nodes returns all nodes by name.
func (s *Services) Nodes() []NodeInfo {
	list := make([]NodeInfo, 0, len(s.nodes))
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		list = append(list, s.nodes[name].value)
	}
	return list
}

// Problems returns what is wrong with the objects at present, sorted. It counts
// slices whose Service isn't there only once all Services have been read.
func (s *Services) Problems() []Problem {
	var list []Problem
	add := func(kind source.Kind, key source.Key, err error) {
		if err != nil {
			list = append(list, Problem{kind, key, err})
		}
	}
	for name, record := range s.services {
		_, err := s.guard(record.value)
		add(source.KindService, source.Key(name), errors.Join(record.err, err))
	}
	for key, record := range s.slices {
		err := record.err
		if _, ok := s.services[record.service]; s.synced && !ok && record.service != (service.Name{}) {
			err = errors.Join(fmt.Errorf("its Service %s is not there", record.service), err)
		}
		add(source.KindEndpointSlice, key, err)
	}
	for name, record := range s.nodes {
		add(source.KindNode, source.Key{Name: name}, record.err)
	}
	for name, record := range s.pools {
		add(source.KindIPPool, source.Key{Name: name}, record.err)
	}
	slices.SortFunc(list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Key.Compare(b.Key))
	})
	return list
}
