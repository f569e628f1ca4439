// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/nic"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
)

const (
	// settle is how long after a move the address is verified: others have heard
	// of it by then.
	settle = 1500 * time.Millisecond
	// every is how often an address is verified without a move.
	every = 5 * time.Minute
	// again is how soon one that failed is looked at again.
	again = 5 * time.Second
	// believed is how often it fails in a row before that is said.
	believed = 2
	// interval is how often the Verifier looks whether anything moved.
	interval = 500 * time.Millisecond
)

// Name is the part's name in the reconciler.
const Name = "verification"

// Kind is the kind of question by which one node has another one look.
const Kind = "verify"

// Options are what a Verifier works with.
type Options struct {
	Node string
	// Addresses tells who has which address; Standings who is fit to look.
	Addresses func() []holder.Address
	Standings func() map[string]holder.Standing
	View      func() heartbeat.View
	// Changed is told that the report is another one.
	Changed func()
	Log     *slog.Logger
}

// Verifier verifies the addresses of other nodes. Make one with New.
type Verifier struct {
	Options
	look func(context.Context, From, Target) (Seen, error)

	mu      sync.Mutex
	objects parts.Objects
	cases   map[netip.Addr]*record
}

// record is an address that it falls to this node to verify.
type record struct {
	owner  string
	epoch  uint64
	due    time.Time
	failed int // times in a row
	told   bool
	result Result
}

// Result is what came of looking at an address once.
type Result struct {
	Addr netip.Addr `json:"addr"`
	// By is the node that looked, Owner the one that has the address for all it knows.
	By    string `json:"by"`
	Owner string `json:"owner"`
	// AnsweredBy are the nodes, or else MAC addresses, that answered for the address.
	AnsweredBy []string `json:"answeredBy,omitempty"`
	Ports      []Port   `json:"ports,omitempty"`
	// Problem is what is wrong, "" if all is well.
	Problem string `json:"problem,omitempty"`
}

// New returns a verifier.
func New(o Options) *Verifier {
	return &Verifier{Options: o, look: Look, cases: map[netip.Addr]*record{}}
}

// Part is what hooks into the reconciler: it has the NICs and Services, and the
// results in the node's report.
func (v *Verifier) Part() parts.Part {
	return parts.Part{
		Name: Name,
		Sync: func(_ context.Context, o parts.Objects) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.objects = o
			return nil
		},
		Report: v.report,
	}
}

// Run verifies until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, a := range v.due(time.Now()) {
			v.verify(ctx, a)
		}
	}
}

// due brings the cases in line with who has what, and returns those to look at now.
func (v *Verifier) due(now time.Time) (list []holder.Address) {
	addresses, standings := v.Addresses(), v.Standings()
	v.mu.Lock()
	defer v.mu.Unlock()
	mine := map[netip.Addr]bool{}
	for _, a := range addresses {
		if a.Holder == "" || a.Holder == v.Node || v.witness(a, standings) != v.Node {
			continue
		}
		mine[a.Addr] = true
		c := v.cases[a.Addr]
		if c == nil || c.owner != a.Holder || c.epoch != a.Epoch {
			told := c != nil && c.told // until it is known better
			c = &record{owner: a.Holder, epoch: a.Epoch, due: now.Add(settle), told: told}
			v.cases[a.Addr] = c
		}
		if !now.Before(c.due) {
			list = append(list, a)
		}
	}
	for addr := range v.cases {
		if !mine[addr] {
			delete(v.cases, addr)
		}
	}
	return list
}

// witness is the node to verify an address: of those alive on its network the
// one that the address is hashed to, but for its owner.
func (v *Verifier) witness(a holder.Address, standings map[string]holder.Standing) string {
	var names []string
	for name, s := range standings {
		if name != a.Holder && s.Alive && slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(a.Addr) }) {
			names = append(names, name)
		}
	}
	return announce.Owner(a.Addr, names)
}

// verify looks at an address and notes what came of it, unless it moved meanwhile.
func (v *Verifier) verify(ctx context.Context, a holder.Address) {
	result := v.Look(ctx, a.Addr, 0)
	now := time.Now()
	v.mu.Lock()
	c := v.cases[a.Addr]
	if ctx.Err() != nil || c == nil || c.owner != result.Owner || c.epoch != a.Epoch {
		v.mu.Unlock()
		return
	}
	changed := c.result.Problem != result.Problem || c.result.Owner == ""
	c.result, c.due = result, now.Add(every*3/4+rand.N(every/2))
	if c.failed++; result.Problem == "" {
		c.failed = 0
	}
	tell := c.failed >= believed && !c.told || c.failed == 0 && c.told
	if c.failed > 0 {
		c.due = now.Add(again)
	}
	if tell {
		c.told = c.failed > 0
	}
	v.mu.Unlock()
	if tell && result.Problem != "" {
		v.Log.Warn("address is not reachable", "addr", a.Addr, "owner", a.Holder, "problem", result.Problem)
	} else if tell {
		v.Log.Info("address is reachable again", "addr", a.Addr, "owner", a.Holder)
	}
	if (changed || tell) && v.Changed != nil {
		v.Changed()
	}
}

// Look looks at an address over the wire now, at the port given or at those of
// its Services.
func (v *Verifier) Look(ctx context.Context, addr netip.Addr, port uint16) Result {
	result := Result{Addr: addr, By: v.Node}
	for _, a := range v.Addresses() {
		if a.Addr == addr {
			result.Owner = a.Holder
		}
	}
	v.mu.Lock()
	objects := v.objects
	v.mu.Unlock()
	from, ok := source(objects.NICs, addr)
	if !ok {
		result.Problem = fmt.Sprintf("%s has no external NIC with carrier on the network of %s to look from", v.Node, addr)
		return result
	}
	fronts := frontends(objects.Entries, addr, from.Addr, port)
	target := Target{Addr: addr}
	for _, f := range fronts {
		target.Ports = append(target.Ports, f.port)
	}
	seen, err := v.look(ctx, from, target)
	if err != nil {
		result.Problem = fmt.Sprintf("%s could not look: %v", v.Node, err)
		return result
	}
	result.Ports = seen.Ports
	names := v.names()
	for _, mac := range seen.MACs {
		result.AnsweredBy = append(result.AnsweredBy, names.of(mac))
	}
	result.Problem = judge(result, fronts)
	return result
}

// source picks the NIC to look from.
func source(nics []nic.NIC, addr netip.Addr) (From, bool) {
	for _, n := range nics {
		if n.Role&nic.External == 0 || !n.Carrier {
			continue
		}
		for _, p := range n.Addrs {
			if p.Contains(addr) && !p.IsSingleIP() {
				return From{Link: n.Index, Addr: p.Addr()}, true
			}
		}
	}
	return From{}, false
}

// Answer answers another node's question to look: the body is a Target.
func (v *Verifier) Answer(body []byte) []byte {
	var target Target
	result := Result{By: v.Node}
	if err := json.Unmarshal(body, &target); err != nil {
		result.Problem = fmt.Sprintf("%s doesn't understand the question: %v", v.Node, err)
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		port := uint16(0)
		if len(target.Ports) > 0 {
			port = target.Ports[0]
		}
		result = v.Look(ctx, target.Addr, port)
	}
	v.Doubt(result)
	answer, _ := json.Marshal(result) // can be encoded
	return answer
}

// Objects are what the reconciler showed last.
func (v *Verifier) Objects() parts.Objects {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.objects
}

// Doubt has an address verified soon, if what was seen of it isn't well.
func (v *Verifier) Doubt(r Result) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.cases[r.Addr]; c != nil && r.Problem != "" {
		c.due = time.Now()
	}
}

// Results are what came of looking last, by address.
func (v *Verifier) Results() map[netip.Addr]Result {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make(map[netip.Addr]Result, len(v.cases))
	for addr, c := range v.cases {
		if c.result.Owner != "" {
			out[addr] = c.result
		}
	}
	return out
}

// report adds what was verified to the node's report.
func (v *Verifier) report(s *v1alpha1.NodeNetworkStateStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for addr, c := range v.cases {
		if c.result.Owner == "" || c.failed > 0 && !c.told {
			continue
		}
		s.Verified = append(s.Verified, v1alpha1.AddressVerification{
			Address: addr.String(), Node: c.result.Owner, Reachable: !c.told, Message: c.result.Problem,
		})
	}
	slices.SortFunc(s.Verified, func(a, b v1alpha1.AddressVerification) int {
		return netip.MustParseAddr(a.Address).Compare(netip.MustParseAddr(b.Address))
	})
}
