// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// The chains, in a packet's order.
const (
	chainUntrackIn  = "untrack-in"
	chainUntrackOut = "untrack-out"
	chainTunnel     = "tunnel"
	chainGuard      = "guard"
	chainOut        = "out"
)

func chainNames() []string {
	return []string{chainUntrackIn, chainUntrackOut, chainTunnel, chainGuard, chainOut}
}

// builder collects one transaction.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	mark  string // comment of each chain's last rule
	errs  []error
}

func (b *builder) build(c Config, mark string) {
	b.mark = mark
	exclude := append([]netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
		netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fe80::/10")}, c.Exclude...)
	exclude = append(exclude, c.Pods...)
	families := []family{v4(), v6()}
	for i := range families {
		f := &families[i]
		f.pods = b.set("pods"+f.suffix, f.keyType, merge(c.Pods, f.is4))
		f.exclude = b.set("cluster"+f.suffix, f.keyType, merge(exclude, f.is4))
	}
	in := b.chain(chainUntrackIn, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, f := range families {
		b.rule(in, f.is(), f.source(f.pods, false), f.destination(f.pods, false), untrack())
		b.rule(in, f.is(), f.source(f.pods, true), udpTo(c.TunnelPort), untrack())
	}
	b.last(in)
	out := b.chain(chainUntrackOut, nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	b.rule(out, udpTo(c.TunnelPort), untrack())
	b.last(out)

	tunnel := b.chain(chainTunnel, nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	if len(c.TunnelLinks) > 0 {
		b.rule(tunnel, udpTo(c.TunnelPort), notFrom(b.links("tunnel-links", c.TunnelLinks)), drop())
	}
	b.last(tunnel)

	guard := b.chain(chainGuard, nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	nat := b.chain(chainOut, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	links := b.links("links", c.Links)
	for _, f := range families {
		b.keepOut(guard, f, links)
		if c.Masquerade {
			b.guard(guard, f)
			b.masquerade(nat, f, c)
		}
	}
	b.last(guard)
	b.last(nat)
}

// keepOut keeps from pods what comes by an interface that isn't ours, where no
// program checks it: from outside nobody reaches pods. Who knows pods' own
// addresses may ask, and what a pod has asked may answer.
func (b *builder) keepOut(chain *nftables.Chain, f family, links *nftables.Set) {
	for _, stranger := range strangers() {
		b.rule(chain, f.is(), f.destination(f.pods, false), f.source(f.exclude, true), notFrom(links), stranger,
			state(expr.CtStateBitNEW|expr.CtStateBitINVALID), drop())
	}
}

// guard keeps in what would leave with the pod's own address because the kernel
// makes no translation for it. A connection that it sees from the middle on is
// none that the pod began: the other end knows it by another address.
func (b *builder) guard(chain *nftables.Chain, f family) {
	leaving := f.leaving()
	b.rule(chain, leaving, state(expr.CtStateBitINVALID), drop())
	b.rule(chain, leaving, state(expr.CtStateBitNEW), l4(unix.IPPROTO_TCP), notSYN(), drop())
}

// masquerade keeps a source port by translating into the range that it is in;
// the ranges leave out NodePorts, the tunnel's port and privileged ones, which
// the node itself may serve. The address is the NIC's; where none is known for
// the way out, and for protocols without ports, the kernel picks one.
func (b *builder) masquerade(chain *nftables.Chain, f family, c Config) {
	chosen := b.conn.AddChain(&nftables.Chain{Name: "masquerade" + f.suffix, Table: b.table})
	b.rule(chain, f.leaving(), goTo(chosen.Name))
	addrs := b.addrMap("nics"+f.suffix, f, c.NICs)
	free := freePorts(c.TunnelPort, c.NodePorts)
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, r := range free {
			b.rule(chosen, l4(proto), sourcePorts(r), f.translate(addrs, r))
		}
		b.rule(chosen, l4(proto), f.translate(addrs, free[len(free)-1]))
	}
	b.rule(chosen, []expr.Any{&expr.Masq{}})
}

// freePorts are the unprivileged ports without the tunnel's and the NodePorts, as ranges.
func freePorts(tunnel uint16, nodePorts [2]uint16) [][2]uint16 {
	taken := [][2]uint16{{tunnel, tunnel}, nodePorts}
	if nodePorts[0] < tunnel {
		taken[0], taken[1] = taken[1], taken[0]
	}
	var free [][2]uint16
	next := 1024
	for _, t := range taken {
		if int(t[0]) > next {
			free = append(free, [2]uint16{uint16(next), t[0] - 1})
		}
		next = max(next, int(t[1])+1)
	}
	if next <= 65535 {
		free = append(free, [2]uint16{uint16(next), 65535})
	}
	return free
}

func (b *builder) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: kind, Hooknum: hook, Priority: prio})
}

func (b *builder) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: all})
}

// last ends a chain with a rule that carries the fingerprint and does nothing.
func (b *builder) last(chain *nftables.Chain) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}},
		UserData: userdata.AppendString(nil, userdata.TypeComment, b.mark)})
}

func (b *builder) set(name string, key nftables.SetDatatype, prefixes []netip.Prefix) *nftables.Set {
	set := &nftables.Set{Table: b.table, Name: name, KeyType: key, Interval: true}
	var elements []nftables.SetElement
	for _, p := range prefixes {
		elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := lastAddr(p).Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	if err := b.conn.AddSet(set, elements); err != nil {
		b.errs = append(b.errs, err)
	}
	return set
}

// addrMap maps the index of a NIC to its address of the family.
func (b *builder) addrMap(name string, f family, nics []NIC) *nftables.Set {
	set := &nftables.Set{Table: b.table, Name: name, IsMap: true, KeyType: nftables.TypeIFIndex, DataType: f.keyType, KeyByteOrder: binaryutil.NativeEndian}
	var elements []nftables.SetElement
	for _, n := range nics {
		if addr := n.addr(f.is4); addr.IsValid() {
			elements = append(elements, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(n.Index)), Val: addr.AsSlice()})
		}
	}
	if err := b.conn.AddSet(set, elements); err != nil {
		b.errs = append(b.errs, err)
	}
	return set
}

// links is a set of interfaces.
func (b *builder) links(name string, indexes []int) *nftables.Set {
	set := &nftables.Set{Table: b.table, Name: name, KeyType: nftables.TypeIFIndex, KeyByteOrder: binaryutil.NativeEndian}
	var elements []nftables.SetElement
	for _, index := range indexes {
		elements = append(elements, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(index))})
	}
	if err := b.conn.AddSet(set, elements); err != nil {
		b.errs = append(b.errs, err)
	}
	return set
}

func lastAddr(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for i := p.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// family is what IPv4 and IPv6 rules differ in.
type family struct {
	is4           bool
	suffix        string
	nfproto       byte
	keyType       nftables.SetDatatype
	src, dst, len uint32
	pods, exclude *nftables.Set
}

func v4() family {
	return family{is4: true, suffix: "4", nfproto: unix.NFPROTO_IPV4, keyType: nftables.TypeIPAddr, src: 12, dst: 16, len: 4}
}

func v6() family {
	return family{suffix: "6", nfproto: unix.NFPROTO_IPV6, keyType: nftables.TypeIP6Addr, src: 8, dst: 24, len: 16}
}

func (f family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{f.nfproto})}
}

func (f family) source(set *nftables.Set, not bool) []expr.Any { return f.in(f.src, set, not) }

func (f family) destination(set *nftables.Set, not bool) []expr.Any { return f.in(f.dst, set, not) }

// leaving matches what pods send to the outside.
func (f family) leaving() []expr.Any {
	return slices.Concat(f.is(), f.source(f.pods, false), f.destination(f.exclude, true))
}

// translate sets the source: the address of the NIC that the packet leaves by,
// and a port out of the range, the same if it is free. A NIC that isn't in the
// map ends the rule.
func (f family) translate(addrs *nftables.Set, r [2]uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIF, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: addrs.Name, SetID: addrs.ID},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(r[0])},
		&expr.Immediate{Register: 3, Data: binaryutil.BigEndian.PutUint16(r[1])},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 3, Specified: true},
	}
}

func (f family) in(offset uint32, set *nftables.Set, not bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.len},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: not},
	}
}

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func l4(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{proto})}
}

func udpTo(port uint16) []expr.Any {
	return append(l4(unix.IPPROTO_UDP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equal(binaryutil.BigEndian.PutUint16(port)))
}

// sourcePorts matches source ports within the range.
func sourcePorts(r [2]uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binaryutil.BigEndian.PutUint16(r[0])},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binaryutil.BigEndian.PutUint16(r[1])},
	}
}

// notFrom matches what came in by none of the interfaces.
func notFrom(links *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: links.Name, SetID: links.ID, Invert: true},
	}
}

// strangers match what came in neither from a pod nor out of the tunnel, each by
// the beginning of the interface's name: pods' are "pb" and digits, what of ours
// has a "-" is a switch, but for the tunnel.
func strangers() [][]expr.Any {
	name := func(op expr.CmpOp, text string) expr.Any { return &expr.Cmp{Op: op, Register: 1, Data: []byte(text)} }
	in := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}
	return [][]expr.Any{
		{in, name(expr.CmpOpNeq, "pb")},
		{in, name(expr.CmpOpEq, "pb-"), name(expr.CmpOpNeq, netdev.TunnelName+"\x00")},
	}
}

// notSYN matches TCP segments that don't begin a connection.
func notSYN() []expr.Any {
	const flagsAt, fin, syn, rst, ack = 13, 0x01, 0x02, 0x04, 0x10
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsAt, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}},
	}
}

// state matches the connection's state.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

func untrack() []expr.Any { return []expr.Any{&expr.Notrack{}} }

func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}
