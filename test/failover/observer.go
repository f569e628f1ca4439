// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/packet"
)

// askEvery is how often the observer asks for each address.
const askEvery = 20 * time.Millisecond

// Each question has a sender address of its own, which the answer goes to: so
// the observer knows which question an answer is to.
const (
	asker4 = "10.77.0.0"
	asker6 = "fd00:77::"
)

// Observer sits on the clients' segment, asks for every address all the time by
// ARP and neighbour solicitation, and keeps who answered which question, and who
// claimed what unasked.
type Observer struct {
	lab   *Lab
	addrs []netip.Addr
	fd    int
	mac   [6]byte

	mu        sync.Mutex
	questions []question // by sequence number
	claims    []Claim
}

// question is one that was asked.
type question struct {
	addr  netip.Addr
	asked time.Duration
	by    [][6]byte // who answered, each once
}

// Claim is an unasked ARP or neighbour advertisement for an address.
type Claim struct {
	Addr netip.Addr
	At   time.Duration
	Node string
}

// Claims are those heard so far.
func (o *Observer) Claims() []Claim {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.claims)
}

// newObserver starts observing, until the end of the test.
func newObserver(l *Lab) *Observer {
	o := &Observer{lab: l}
	for _, s := range l.Services {
		o.addrs = append(o.addrs, s.Addrs()...)
	}
	ns := l.space()
	l.External.Fixed(l.External.Join(l.tb, ns, "eth0"))
	o.mac = ns.MAC(l.tb, "eth0")
	if err := ns.Do(func() (err error) { o.fd, err = openSocket(ns.Index(l.tb, "eth0")); return err }); err != nil {
		l.tb.Fatalf("observe: %v", err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() { o.ask(stop) })
	both.Go(func() { o.read(stop) })
	go func() { both.Wait(); close(done) }()
	l.tb.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(o.fd)
	})
	return o
}

// openSocket opens a socket for all frames that come in by an interface, others'
// included.
func openSocket(index int) (int, error) {
	const all = uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	for _, err := range []error{
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
	} {
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// ask asks for each address in turn.
func (o *Observer) ask(stop <-chan struct{}) {
	ticks := time.NewTicker(askEvery)
	defer ticks.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticks.C:
		}
		for _, addr := range o.addrs {
			o.mu.Lock()
			frame := o.frame(addr, len(o.questions))
			o.questions = append(o.questions, question{addr: addr, asked: Now()})
			o.mu.Unlock()
			_ = unix.Send(o.fd, frame, 0) // a full queue shows as a question without answer
		}
	}
}

// frame is a question.
func (o *Observer) frame(addr netip.Addr, seq int) []byte {
	if addr.Is4() {
		from := netip.MustParseAddr(asker4).As4()
		binary.BigEndian.PutUint16(from[2:], uint16(seq))
		return packet.Build(packet.Eth{Src: o.mac, Dst: packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
			packet.ARP{Op: 1, SenderMAC: o.mac, SenderIP: netip.AddrFrom4(from), TargetIP: addr})
	}
	from, a := netip.MustParseAddr(asker6).As16(), addr.As16()
	binary.BigEndian.PutUint16(from[14:], uint16(seq))
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], a[13:])
	return packet.Build(packet.Eth{Src: o.mac, Dst: packet.MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}},
		packet.IPv6{Src: netip.AddrFrom16(from), Dst: netip.AddrFrom16(group), HopLimit: 255},
		packet.NDP{Type: 135, Target: addr, LinkAddr: o.mac})
}

// read keeps what the frames say.
func (o *Observer) read(stop <-chan struct{}) {
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(o.fd, buf, 0)
		if err != nil || n < 14 {
			continue // the timeout
		}
		o.take(buf[:n], Now())
	}
}

// take notes a frame.
func (o *Observer) take(frame []byte, now time.Duration) {
	said, ok := parse(frame)
	if !ok || !slices.Contains(o.addrs, said.addr) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case said.to.IsValid() && said.to.Is4() && netip.MustParsePrefix(asker4+"/16").Contains(said.to),
		said.to.IsValid() && said.to.Is6() && netip.MustParsePrefix(asker6+"/112").Contains(said.to):
		o.answered(said)
	default:
		o.claims = append(o.claims, Claim{said.addr, now, o.lab.owner(said.mac)})
	}
}

// answered notes an answer with its question.
func (o *Observer) answered(said statement) {
	b := said.to.AsSlice()
	seq := int(binary.BigEndian.Uint16(b[len(b)-2:]))
	// The latest question of that number: an answer comes long before they wrap.
	last := len(o.questions) - 1
	i := last - (last-seq)&0xffff
	if i < 0 || o.questions[i].addr != said.addr {
		return
	}
	if q := &o.questions[i]; !slices.Contains(q.by, said.mac) {
		q.by = append(q.by, said.mac)
	}
}

// statement is what a frame says about an address.
type statement struct {
	addr netip.Addr
	mac  [6]byte
	to   netip.Addr // whom it answers; invalid if nobody asked
}

// parse reads a frame that tells who has an address.
func parse(f []byte) (s statement, ok bool) {
	const ethernet, ip6 = 14, 40
	copy(s.mac[:], f[6:12])
	at := func(offset, size int) netip.Addr {
		a, _ := netip.AddrFromSlice(f[offset : offset+size])
		return a
	}
	switch kind := binary.BigEndian.Uint16(f[12:]); {
	case kind == 0x0806 && len(f) >= ethernet+28:
		copy(s.mac[:], f[ethernet+8:])
		s.addr = at(ethernet+14, 4)
		if f[ethernet+7] == 2 {
			s.to = at(ethernet+24, 4)
		}
		return s, s.addr != netip.IPv4Unspecified()
	case kind == 0x86dd && len(f) >= ethernet+ip6+24 && f[ethernet+6] == 58 && f[ethernet+ip6] == 136:
		s.addr, s.to = at(ethernet+ip6+8, 16), at(ethernet+24, 16)
		return s, true
	}
	return s, false
}

// Answering returns the node that answered the latest questions for an address:
// "nobody" if one wasn't answered, and all of them if they were several.
func (o *Observer) Answering(addr netip.Addr) string {
	const young, old = 30 * time.Millisecond, 200 * time.Millisecond
	o.mu.Lock()
	defer o.mu.Unlock()
	now, names := Now(), []string{}
	for _, q := range slices.Backward(o.questions) {
		if now-q.asked > old {
			break
		}
		if q.addr != addr || now-q.asked < young {
			continue
		}
		if len(q.by) == 0 {
			return join(nil)
		}
		for _, mac := range q.by {
			if name := o.lab.owner(mac); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return join(names)
}

// Now is the machine's monotonic clock, as the streams have it too.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
