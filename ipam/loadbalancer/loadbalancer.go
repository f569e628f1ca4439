// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer decides which addresses LoadBalancer Services have. It
// is pure and remembers nothing: Plan looks at the durable records, the pools
// and the Services as they are, and says what to write, in which order. So a
// controller that is killed at any point and starts again reaches the same
// result, as long as it plans with all Services and records read.
//
//	result := loadbalancer.Plan(in)
//	// 1. write result.Put, 2. put result.Assignments into the Services' status,
//	// 3. write result.Release, delete result.Forget
//
// An address that nobody has had is Reserved first, while the network is searched
// for other machines with it; Input.Search tells how that goes. Only then its
// owners have it; until then they keep the one that they had.
//
// What it holds to: an address has one owner, or several that share it by key
// with different ports; an owner keeps its address for as long as it doesn't
// ask for another one, whatever becomes of the pool; a Service made again by
// the same name gets its old address while that is free; a freed address rests.
package loadbalancer

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
)

// Name names a Service.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

func (n Name) compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// Port is a port that a Service occupies on its addresses. Protocol is an IANA
// number.
type Port struct {
	Protocol uint8
	Number   uint16
}

// Service is a Service that wants addresses from us.
type Service struct {
	Name       Name
	Created    time.Time
	IPv4, IPv6 bool         // the families it has
	All        bool         // both or none (ipFamilyPolicy RequireDualStack)
	Requested  []netip.Addr // at most one of a family
	Pools      []string     // from these only; empty: any that assigns by itself
	SharingKey string
	Ports      []Port
	Local      bool         // externalTrafficPolicy Local
	Backends   string       // tells its pods from others of its namespace; "": nothing does
	Status     []netip.Addr // what its status says now
	Err        error        // its wishes can't be read: it keeps what it has and gets no more
}

// Pool is a set of addresses to give.
type Pool struct {
	Name       string
	Parts      []ipam.Pool // one of each family at most
	Priority   int32       // the highest is tried first
	AutoAssign bool        // also for Services that don't name it
	Disabled   bool        // gives nothing any more
	CoolDown   time.Duration
	Admits     func(Name) bool // nil: every Service
}

// part returns the pool's addresses of a family.
func (p *Pool) part(is4 bool) (ipam.Pool, bool) {
	for _, part := range p.Parts {
		if part.Is4() == is4 {
			return part, true
		}
	}
	return ipam.Pool{}, false
}

func (p *Pool) contains(addr netip.Addr) bool {
	part, ok := p.part(addr.Is4())
	return ok && part.Contains(addr)
}

// State is how a recorded address stands.
type State uint8

// The states of a record.
const (
	Active     State = iota // its owners have it
	Cooling                 // freed, with its last owners remembered
	Conflicted              // in use by a machine that isn't ours
	Reserved                // its owners' as soon as the network has been searched
)

// owned tells whether the record's owners are its present ones.
func (s State) owned() bool { return s == Active || s == Reserved }

// Search is how far the search for other machines with an address has come.
type Search uint8

// The stages of a search.
const (
	Searching  Search = iota // not known yet
	Free                     // nobody has it
	Occupied                 // another machine has it
	Impossible               // nobody can tell: it is taken as free
)

// Finding is what is known of a search, and By whom it was answered, as text.
type Finding struct {
	Search Search
	By     string
}

// Record is the durable record of one address.
type Record struct {
	Addr       netip.Addr
	Pool       string
	Owners     []Name // sorted
	SharingKey string
	State      State
	Since      time.Time
}

// Input is all that Plan looks at.
type Input struct {
	Now      time.Time
	Pools    []Pool
	Services []Service
	Records  []Record
	Taken    []netip.Addr // never to be given: of nodes and of their networks, externalIPs
	// Search tells what was found of a Reserved or Conflicted record's address; if
	// nil, addresses are given without a search.
	Search func(Record) Finding
	// Rested tells for how long a Cooling record's address has rested; if nil, that
	// is from its Since until Now.
	Rested func(Record) time.Duration
}

// Assignment is what a Service has. Reason says why it lacks something that it
// wants, or is nil.
type Assignment struct {
	Service Name
	Addrs   []netip.Addr // IPv4 first
	Reason  error
	Strays  []netip.Addr // of Addrs, those that no pool has any more
}

// Conflict is an address that was found to be another machine's, and the
// Services that were to have it.
type Conflict struct {
	Addr   netip.Addr
	Pool   string
	Owners []Name
	By     string
}

// Usage counts the addresses of a pool.
type Usage struct {
	Pool                    string
	Total, Used, Conflicted uint64
	Strays                  uint64 // given out of the pool, which has them no more
	Owners                  []Name // who has addresses of it, strays included; sorted
}

// Result is what to do, and in which order.
type Result struct {
	Put         []Record     // first: what must be durable before a status names it
	Assignments []Assignment // then: one for each Service of the input, sorted
	Release     []Record     // then: what is no longer in use
	Forget      []netip.Addr // and these records can be deleted
	Usage       []Usage      // of each pool, sorted
	Conflicts   []Conflict   // new ones, sorted
	Early       int          // addresses given before they had rested in full
}
