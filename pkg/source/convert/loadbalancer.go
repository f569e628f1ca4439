// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
)

// Class says which LoadBalancer Services get their addresses from us.
type Class struct {
	Name    string // those of this loadBalancerClass
	Default bool   // also those without any
}

// Serves tells whether a Service gets its address from us.
func (c Class) Serves(obj *corev1.Service) bool {
	if obj.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	if class := obj.Spec.LoadBalancerClass; class != nil {
		return *class == c.Name
	}
	return c.Default
}

// LoadBalancer returns what a Service wants of its addresses. Wishes that can't
// be read are in its Err.
func LoadBalancer(obj *corev1.Service) loadbalancer.Service {
	svc := loadbalancer.Service{
		Name:       loadbalancer.Name{Namespace: obj.Namespace, Name: obj.Name},
		Created:    obj.CreationTimestamp.Time,
		Pools:      splitList(obj.Annotations[v1alpha1.AnnotationPools]),
		SharingKey: obj.Annotations[v1alpha1.AnnotationSharingKey],
		Local:      externalLocal(&obj.Spec),
		Backends:   labels.Set(obj.Spec.Selector).String(),
	}
	svc.IPv4, svc.IPv6 = families(&obj.Spec)
	if p := obj.Spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicyRequireDualStack {
		svc.All = true
	}
	ports, errPorts := servicePorts(obj.Spec.Ports)
	for _, p := range ports {
		svc.Ports = append(svc.Ports, loadbalancer.Port{Protocol: uint8(p.Protocol), Number: p.Port})
	}
	requested, errRequested := requestedAddrs(obj)
	svc.Requested = requested
	svc.Err = errors.Join(errPorts, errRequested)
	for _, in := range obj.Status.LoadBalancer.Ingress {
		if addr, err := parseAddr(in.IP); err == nil {
			svc.Status = append(svc.Status, addr)
		}
	}
	return svc
}

// families returns which families a Service has: as it says, else as its
// ClusterIPs say, else IPv4.
func families(spec *corev1.ServiceSpec) (is4, is6 bool) {
	for _, f := range spec.IPFamilies {
		is4, is6 = is4 || f == corev1.IPv4Protocol, is6 || f == corev1.IPv6Protocol
	}
	if is4 || is6 {
		return is4, is6
	}
	ips, _ := parseAddrs("", clusterIPs(spec))
	for _, ip := range ips {
		is4, is6 = is4 || ip.Is4(), is6 || ip.Is6()
	}
	return is4 || !is6, is6
}

// requestedAddrs returns the addresses that a Service asks for: by annotation,
// and of a family that this doesn't name by spec.loadBalancerIP.
func requestedAddrs(obj *corev1.Service) ([]netip.Addr, error) {
	const field = "annotation " + v1alpha1.AnnotationAddresses
	addrs, err := parseAddrs(field, splitList(obj.Annotations[v1alpha1.AnnotationAddresses]))
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		for _, other := range addrs[:i] {
			if addr.Is4() == other.Is4() {
				return nil, fmt.Errorf("%s: %s and %s are of one family", field, other, addr)
			}
		}
	}
	if obj.Spec.LoadBalancerIP == "" {
		return addrs, nil
	}
	addr, err := parseAddr(obj.Spec.LoadBalancerIP)
	if err != nil {
		return nil, fmt.Errorf("spec.loadBalancerIP: %w", err)
	}
	if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }) {
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// splitList reads a list separated by commas.
func splitList(s string) []string {
	var list []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// Record returns what the durable record says.
func Record(obj *v1alpha1.IPAllocation) (loadbalancer.Record, error) {
	addr, err := parseAddr(obj.Spec.Address)
	if err != nil {
		return loadbalancer.Record{}, fmt.Errorf("spec.address: %w", err)
	}
	r := loadbalancer.Record{Addr: addr, Pool: obj.Spec.Pool, SharingKey: obj.Spec.SharingKey, Since: obj.Spec.Since.Time}
	switch obj.Spec.State {
	case v1alpha1.AllocationCooling:
		r.State = loadbalancer.Cooling
	case v1alpha1.AllocationConflicted:
		r.State = loadbalancer.Conflicted
	case v1alpha1.AllocationReserved:
		r.State = loadbalancer.Reserved
	}
	for _, owner := range obj.Spec.Owners {
		r.Owners = append(r.Owners, loadbalancer.Name{Namespace: owner.Namespace, Name: owner.Name})
	}
	return r, nil
}

// Allocation returns a record as the object that keeps it.
func Allocation(r loadbalancer.Record) *v1alpha1.IPAllocation {
	obj := &v1alpha1.IPAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.AllocationName(r.Addr)},
		Spec: v1alpha1.IPAllocationSpec{
			Address: r.Addr.String(), Pool: r.Pool, SharingKey: r.SharingKey, Since: metav1.NewTime(roundUp(r.Since)),
			State: v1alpha1.AllocationActive,
		},
	}
	switch r.State {
	case loadbalancer.Cooling:
		obj.Spec.State = v1alpha1.AllocationCooling
	case loadbalancer.Conflicted:
		obj.Spec.State = v1alpha1.AllocationConflicted
	case loadbalancer.Reserved:
		obj.Spec.State = v1alpha1.AllocationReserved
	}
	for _, owner := range r.Owners {
		obj.Spec.Owners = append(obj.Spec.Owners, v1alpha1.ServiceReference{Namespace: owner.Namespace, Name: owner.Name})
	}
	return obj
}

// roundUp returns the time in whole seconds, as objects keep it; upwards, so
// that nothing rests for less than it should.
func roundUp(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}
