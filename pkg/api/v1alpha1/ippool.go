// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// IPPool is a set of addresses that Patchbay gives out: to pods, to nodes and
// VMs on a switch, or to LoadBalancer Services.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Use",type=string,JSONPath=`.spec.use`
// +kubebuilder:printcolumn:name="CIDRs",type=string,JSONPath=`.spec.cidrs`
// +kubebuilder:printcolumn:name="Ranges",type=string,JSONPath=`.spec.ranges`,priority=1
// +kubebuilder:printcolumn:name="Total",type=integer,JSONPath=`.status.total`
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.used`
// +kubebuilder:printcolumn:name="Free",type=integer,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Conflicted",type=integer,JSONPath=`.status.conflicted`
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`,priority=1
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec IPPoolSpec `json:"spec"`
	// +optional
	Status IPPoolStatus `json:"status,omitzero"`
}

// IPPoolList is a list of IPPools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []IPPool `json:"items"`
}

// PoolUse says who gets a pool's addresses.
//
// +kubebuilder:validation:Enum=Pod;Node;LoadBalancer
type PoolUse string

// The uses of a pool.
const (
	UsePod          PoolUse = "Pod"          // pods' primary interfaces, by blocks per node
	UseNode         PoolUse = "Node"         // nodes, VMs and pods' legs on a virtual switch
	UseLoadBalancer PoolUse = "LoadBalancer" // Services of type LoadBalancer
)

// IPPoolSpec says which addresses a pool has and who may have them. Its
// addresses are those of cidrs and ranges, without those of exclude and the
// gateway.
//
// +kubebuilder:validation:XValidation:rule="has(self.cidrs) && size(self.cidrs) > 0 || has(self.ranges) && size(self.ranges) > 0",message="cidrs or ranges must have an entry"
// +kubebuilder:validation:XValidation:rule="self.use != 'Pod' || !has(self.ranges) || size(self.ranges) == 0",message="ranges: a pool for pods is cut into blocks and takes cidrs only"
// +kubebuilder:validation:XValidation:rule="!has(self.gateway) || !isIP(self.gateway) || !has(self.cidrs) || self.cidrs.all(c, !isCIDR(c) || cidr(c).ip().family() == ip(self.gateway).family())",message="gateway: with a gateway all cidrs are of its family"
// +kubebuilder:validation:XValidation:rule="!has(self.gateway) || !isIP(self.gateway) || !has(self.ranges) || self.ranges.all(r, !isIP(r.first) || ip(r.first).family() == ip(self.gateway).family())",message="gateway: with a gateway all ranges are of its family"
// +kubebuilder:validation:XValidation:rule="!has(self.blockSize) || self.use == 'Pod'",message="blockSize: only a pool for pods has blocks"
// +kubebuilder:validation:XValidation:rule="!has(self.blockSize) || !has(self.cidrs) || self.cidrs.all(c, !isCIDR(c) || !isCIDR(self.cidrs[0]) || cidr(c).ip().family() == cidr(self.cidrs[0]).ip().family())",message="blockSize: with a block size all cidrs are of one family"
// +kubebuilder:validation:XValidation:rule="!has(self.blockSize) || !has(self.cidrs) || self.cidrs.all(c, !isCIDR(c) || self.blockSize >= cidr(c).prefixLength() && (cidr(c).ip().family() == 6 || self.blockSize <= 32))",message="blockSize: a block must fit into each cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.serviceSelector) || self.use == 'LoadBalancer'",message="serviceSelector: only a pool for LoadBalancer Services has one"
// +kubebuilder:validation:XValidation:rule="!has(self.namespaceSelector) || self.use != 'Node'",message="namespaceSelector: a pool for nodes has none"
// +kubebuilder:validation:XValidation:rule="self.use == 'Node' || !has(self.switch) && (!has(self.static) || size(self.static) == 0)",message="switch, static: only a pool for nodes has them"
type IPPoolSpec struct {
	// Use says who gets the addresses. It can't be changed later.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="can't be changed; delete the object and create it anew"
	Use PoolUse `json:"use"`
	// CIDRs are prefixes, IPv4 or IPv6, all of whose addresses are the pool's.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a prefix without host bits, such as 10.0.0.0/24 or fd00::/64"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self).ip().isGlobalUnicast()",message="must be of unicast addresses that aren't link-local or loopback"
	// +listType=set
	CIDRs []string `json:"cidrs,omitempty"`
	// Ranges are the pool's addresses from first to last, both included.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Ranges []IPRange `json:"ranges,omitempty"`
	// Exclude are addresses and prefixes that are never given out.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isIP(self) || isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be an address, or a prefix without host bits"
	// +listType=set
	Exclude []string `json:"exclude,omitempty"`
	// Gateway is the next hop told to those who get an address; never given out.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an address"
	Gateway string `json:"gateway,omitempty"`
	// BlockSize is the prefix length of the blocks that nodes get out of a pool
	// for pods: 26 by default for IPv4, 122 for IPv6. A cidr smaller than that is
	// one block.
	// +optional
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=128
	BlockSize *int32 `json:"blockSize,omitempty"`
	// AutoAssign gives addresses to those who ask for none in particular; if
	// false only to those who name the pool or an address of it.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// Priority orders pools that would do: the highest first, equal ones by name.
	// +optional
	Priority int32 `json:"priority,omitempty"`
	// NamespaceSelector restricts the pool to pods and Services of namespaces
	// with these labels.
	// +optional
	NamespaceSelector *Selector `json:"namespaceSelector,omitempty"`
	// ServiceSelector restricts the pool to Services with these labels.
	// +optional
	ServiceSelector *Selector `json:"serviceSelector,omitempty"`
	// NodeSelector restricts the pool to nodes with these labels: those that get
	// blocks or addresses of it, or that announce its LoadBalancer addresses.
	// +optional
	NodeSelector *Selector `json:"nodeSelector,omitempty"`
	// CoolDown is how long a freed address rests before it is given out again,
	// from 0s to 24h.
	// +optional
	// +kubebuilder:default="60s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="must be from 0s to 24h"
	CoolDown *metav1.Duration `json:"coolDown,omitempty"`
	// Switch is the virtual switch that the addresses of a pool for nodes are on;
	// legs on it get theirs from the pool unless they name another.
	// +optional
	Switch VirtualSwitchType `json:"switch,omitempty"`
	// Static are addresses of a pool for nodes that are one machine's, told by
	// its name or its MAC address. Nobody else gets them.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	Static []StaticAddress `json:"static,omitempty"`
	// Disabled stops giving out addresses; those given out stay valid, as they do
	// when the pool has them no more, or is deleted. The pool's condition Draining,
	// and the Services', say who still has some.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// StaticAddress is an address that is one machine's.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.mac)",message="either name or mac must be given"
type StaticAddress struct {
	// Address of the machine.
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an address"
	Address string `json:"address"`
	// Name of the machine.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// MAC address of the machine's leg.
	// +optional
	// +kubebuilder:validation:Pattern=`^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$`
	MAC string `json:"mac,omitempty"`
}

// IPRange is the addresses from First to Last, both included.
//
// +kubebuilder:validation:XValidation:rule="isIP(self.first) && isIP(self.last) && ip(self.first).family() == ip(self.last).family()",message="first and last must be addresses of one family"
// +kubebuilder:validation:XValidation:rule="!isIP(self.first) || ip(self.first).isGlobalUnicast()",message="first must be a unicast address that isn't link-local or loopback"
// +kubebuilder:validation:XValidation:rule="!isIP(self.first) || !isIP(self.last) || ip(self.first).family() != ip(self.last).family() || ip(self.first) == ip(self.last) || [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120].exists(a, [0, 1, 2, 3, 4, 5, 6, 7].exists(b, a + b < (ip(self.first).family() == 4 ? 32 : 128) && [[cidr(self.first + '/' + ('   1 2 3 4 5 6 7 8 9101112'.substring((a + b) / 10 * 2, (a + b) / 10 * 2 + 2) + '0123456789'.substring((a + b) % 10, (a + b) % 10 + 1)).trim()), cidr(self.first + '/' + ('   1 2 3 4 5 6 7 8 9101112'.substring((a + b + 1) / 10 * 2, (a + b + 1) / 10 * 2 + 2) + '0123456789'.substring((a + b + 1) % 10, (a + b + 1) % 10 + 1)).trim())]].exists(p, p[0].containsIP(self.last) && !p[1].containsIP(self.last) && p[0].masked().ip() == p[1].masked().ip())))",message="first must not be above last"
type IPRange struct {
	// +kubebuilder:validation:MaxLength=45
	First string `json:"first"`
	// +kubebuilder:validation:MaxLength=45
	Last string `json:"last"`
}

// IPPoolStatus counts a pool's addresses; written by the controller. Numbers
// stop at the largest 64-bit integer.
type IPPoolStatus struct {
	// Total is the number of addresses that can be given out at all.
	Total int64 `json:"total"`
	// Used is the number of addresses given out, resting ones included.
	Used int64 `json:"used"`
	// Free is the number of addresses left.
	Free int64 `json:"free"`
	// Conflicted is the number of addresses found in use by others.
	Conflicted int64 `json:"conflicted"`
	// Conflicts are those addresses, the latest 64.
	// +optional
	// +listType=map
	// +listMapKey=address
	Conflicts []AddressConflict `json:"conflicts,omitempty"`
	// Conditions: Ready, Exhausted, Conflicted, Overlapping, Draining.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AddressConflict is an address that another machine on the network uses.
type AddressConflict struct {
	Address string `json:"address"`
	// MAC is the hardware address that answered for it.
	// +optional
	MAC string `json:"mac,omitempty"`
	// Node is the node that saw it.
	// +optional
	Node string `json:"node,omitempty"`
	// Since is when it was seen first.
	Since metav1.Time `json:"since"`
}

// Default sets what is left out.
func (p *IPPool) Default() {
	if p.Spec.AutoAssign == nil {
		yes := true
		p.Spec.AutoAssign = &yes
	}
	if p.Spec.CoolDown == nil {
		p.Spec.CoolDown = &metav1.Duration{Duration: time.Minute}
	}
}

// BlockBits returns the prefix length of the blocks that are cut out of cidr.
func (s *IPPoolSpec) BlockBits(cidr netip.Prefix) int {
	bits := 26
	switch {
	case s.BlockSize != nil:
		bits = int(*s.BlockSize)
	case cidr.Addr().Is6():
		bits = 122
	}
	return max(bits, cidr.Bits())
}

// Validate returns all that is wrong with the pool.
func (p *IPPool) Validate() error {
	c := newChecks("IPPool", p)
	s := &p.Spec
	c.oneOf("spec.use", s.Use, UsePod, UseNode, UseLoadBalancer)
	c.count("spec.cidrs", len(s.CIDRs), 64)
	c.count("spec.ranges", len(s.Ranges), 64)
	c.count("spec.exclude", len(s.Exclude), 256)
	c.distinct("spec.cidrs", s.CIDRs)
	c.distinct("spec.exclude", s.Exclude)
	if len(s.CIDRs)+len(s.Ranges) == 0 {
		c.add("spec", "cidrs or ranges must have an entry")
	}
	if s.Use == UsePod && len(s.Ranges) > 0 {
		c.add("spec.ranges", "a pool for pods is cut into blocks and takes cidrs only")
	}
	cidrs, families := s.checkAddresses(c)
	s.checkGateway(c, families)
	s.checkBlockSize(c, cidrs)
	if s.ServiceSelector != nil && s.Use != UseLoadBalancer {
		c.add("spec.serviceSelector", "only a pool for LoadBalancer Services has one")
	}
	if s.NamespaceSelector != nil && s.Use == UseNode {
		c.add("spec.namespaceSelector", "a pool for nodes has none")
	}
	s.checkNode(c)
	s.NamespaceSelector.check(c, "spec.namespaceSelector")
	s.ServiceSelector.check(c, "spec.serviceSelector")
	s.NodeSelector.check(c, "spec.nodeSelector")
	if d := s.CoolDown; d != nil && (d.Duration < 0 || d.Duration > 24*time.Hour) {
		c.add("spec.coolDown", "%s must be from 0s to 24h", d.Duration)
	}
	return c.err()
}

// checkAddresses returns the valid cidrs, and one address of each valid cidr
// and range to tell their family by.
func (s *IPPoolSpec) checkAddresses(c *checks) (cidrs []netip.Prefix, families []netip.Addr) {
	for i, text := range s.CIDRs {
		if cidr, ok := c.unicastPrefix(index("spec.cidrs", i), text); ok {
			cidrs = append(cidrs, cidr)
			families = append(families, cidr.Addr())
		}
	}
	for i, r := range s.Ranges {
		if first, ok := r.check(c, index("spec.ranges", i)); ok {
			families = append(families, first)
		}
	}
	for i, text := range s.Exclude {
		c.addrOrPrefix(index("spec.exclude", i), text)
	}
	return cidrs, families
}

func (r IPRange) check(c *checks, field string) (first netip.Addr, ok bool) {
	first, ok1 := c.unicast(field+".first", r.First)
	last, ok2 := c.addr(field+".last", r.Last)
	switch {
	case !ok1 || !ok2:
		return netip.Addr{}, false
	case first.Is4() != last.Is4():
		c.add(field, "first %s and last %s must be of one family", first, last)
		return netip.Addr{}, false
	case last.Less(first):
		c.add(field, "first %s must not be above last %s", first, last)
		return netip.Addr{}, false
	}
	return first, true
}

// checkNode checks what only pools for nodes have.
func (s *IPPoolSpec) checkNode(c *checks) {
	if s.Use != UseNode && (s.Switch != "" || len(s.Static) > 0) {
		c.add("spec", "switch, static: only a pool for nodes has them")
	}
	if s.Switch != "" {
		c.oneOf("spec.switch", s.Switch, SwitchInternal, SwitchExternal)
	}
	c.count("spec.static", len(s.Static), 256)
	for i, st := range s.Static {
		field := index("spec.static", i)
		c.addr(field+".address", st.Address)
		if (st.Name == "") == (st.MAC == "") {
			c.add(field, "either name or mac must be given")
		}
		if st.MAC != "" {
			c.mac(field+".mac", st.MAC)
		}
	}
}

func (s *IPPoolSpec) checkGateway(c *checks, families []netip.Addr) {
	if s.Gateway == "" {
		return
	}
	gateway, ok := c.addr("spec.gateway", s.Gateway)
	if ok && slices.ContainsFunc(families, func(a netip.Addr) bool { return a.Is4() != gateway.Is4() }) {
		c.add("spec.gateway", "with gateway %s all cidrs and ranges must be of its family", gateway)
	}
}

func (s *IPPoolSpec) checkBlockSize(c *checks, cidrs []netip.Prefix) {
	if s.BlockSize == nil {
		return
	}
	size := int(*s.BlockSize)
	c.between("spec.blockSize", int64(size), 8, 128)
	if s.Use != UsePod {
		c.add("spec.blockSize", "only a pool for pods has blocks")
	}
	for _, cidr := range cidrs {
		if cidr.Addr().Is4() != cidrs[0].Addr().Is4() {
			c.add("spec.blockSize", "with a block size all cidrs must be of one family")
		}
		if size < cidr.Bits() || size > cidr.Addr().BitLen() {
			c.add("spec.blockSize", "a block of /%d doesn't fit into %s", size, cidr)
		}
	}
}

// ValidateUpdate returns what may not be changed from the object before, and
// was.
func (p *IPPool) ValidateUpdate(old runtime.Object) error {
	c := newChecks("IPPool", p)
	before, ok := old.(*IPPool)
	if !ok {
		return fmt.Errorf("IPPool %s: not a IPPool before: %T", p.GetName(), old)
	}
	c.unchanged("spec.use", string(before.Spec.Use), string(p.Spec.Use))
	return c.err()
}
