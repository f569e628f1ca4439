// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// node is a namespace with a heartbeat on two NICs.
type node struct {
	*heartbeat.Heartbeat
	ns   *netlab.Namespace
	wire *Wire
	stop context.CancelFunc
}

func start(t *testing.T, ns *netlab.Namespace, name string, number int, others ...heartbeat.Member) *node {
	log := slog.New(slog.DiscardHandler)
	n := &node{ns: ns, wire: New(7474, log)}
	n.Heartbeat = heartbeat.New(heartbeat.Options{Node: name, Key: []byte("a key of the cluster"), Port: 7474, Transport: n.wire, Log: log, Changed: func() {}})
	n.wire.Tell(n)
	var links []heartbeat.Link
	for i, nic := range []string{"eth0", "eth1"} {
		at := netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/24", i, number))
		links = append(links, heartbeat.Link{Index: ns.Index(t, nic), Addr: at.Addr(), Underlay: i == 0, NIC: heartbeat.NIC{
			Name: nic, External: i == 1, Carrier: true, MAC: ns.MAC(t, nic), Addrs: []netip.Prefix{at}}})
	}
	if err := ns.Do(func() error { return n.wire.Set(links) }); err != nil {
		t.Fatal(err)
	}
	n.SetLinks(links)
	n.SetMembers(others)
	ctx, cancel := context.WithCancel(t.Context())
	n.stop = cancel
	go n.Run(ctx)
	return n
}

func member(number int) heartbeat.Member {
	return heartbeat.Member{Name: fmt.Sprint("n", number), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(number)})}}
}

func pair(t *testing.T) (a, b *node) {
	inside, outside := netlab.NewSwitch(t), netlab.NewSwitch(t)
	var list []*node
	for i := 1; i <= 2; i++ {
		ns := netlab.New(t)
		inside.Join(t, ns, "eth0")
		outside.Join(t, ns, "eth1")
		ns.Addr(t, "eth0", fmt.Sprintf("10.0.0.%d/24", i))
		ns.Addr(t, "eth1", fmt.Sprintf("10.0.1.%d/24", i))
		list = append(list, start(t, ns, fmt.Sprint("n", i), i, member(3-i)))
	}
	return list[0], list[1]
}

func await(t *testing.T, what string, n *node, peer string, ok func(heartbeat.Peer) bool) {
	t.Helper()
	netlab.WaitFor(t, 10*time.Second, what, func() error {
		if p := n.View().Peers[peer]; !ok(p) {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

func TestWire(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a, b := pair(t)
		both := func(p heartbeat.Peer) bool { return p.Known && len(p.Links) == 2 }
		await(t, "heard on both NICs", a, "n2", both)
		await(t, "heard on both NICs", b, "n1", both)
		// Its NIC goes down: its own kernel sees that, the others don't.
		b.ns.Down(t, "eth1")
		await(t, "missed on one NIC", a, "n2", func(p heartbeat.Peer) bool { return len(p.Links) == 1 && len(p.Missed) == 1 && p.Answers == nil })
		b.ns.Up(t, "eth1")
		await(t, "heard again", a, "n2", both)
		b.stop()
		if err := b.wire.Close(); err != nil {
			t.Error(err)
		}
		await(t, "agent gone, kernel answers on both", a, "n2", func(p heartbeat.Peer) bool {
			return !p.Agent && p.Node == heartbeat.Alive && len(p.Answers) == 2
		})
		b.ns.Down(t, "eth0")
		b.ns.Down(t, "eth1")
		await(t, "dead", a, "n2", func(p heartbeat.Peer) bool { return p.Node == heartbeat.Dead })
	})
}

// TestOutside: another machine on the network answers, by IPv6 though nobody
// has ever spoken with it.
func TestOutside(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, there := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth1", there, "eth1")
		at := netip.MustParsePrefix("10.0.1.1/24")
		here.Addr(t, "eth1", at.String())
		w, heard := New(7474, slog.New(slog.DiscardHandler)), make(chan [6]byte, 64)
		w.Tell(hearer(heard))
		index := here.Index(t, "eth1")
		link := heartbeat.Link{Index: index, Addr: at.Addr(), NIC: heartbeat.NIC{Name: "eth1", Carrier: true, MAC: here.MAC(t, "eth1"), Addrs: []netip.Prefix{at}}}
		if err := w.Set([]heartbeat.Link{link}); err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		netlab.WaitFor(t, 5*time.Second, "an answer", func() error {
			if err := w.Outside(index); err != nil {
				return err
			}
			select {
			case mac := <-heard:
				if mac != there.MAC(t, "eth1") {
					t.Errorf("answered by %x", mac)
				}
				return nil
			case <-time.After(50 * time.Millisecond):
				return errors.New("none")
			}
		})
		capture := netlab.NewCapture(t, there, "eth1")
		if err := w.Transmit(index, frame.Announcements(netip.MustParseAddr("10.0.1.9"), link.MAC)); err != nil {
			t.Error(err)
		}
		netlab.WaitFor(t, time.Second, "both forms of a claim", func() error {
			if n := capture.Count(func(f netlab.Frame) bool {
				s, ok := frame.Parse(f.Data)
				return ok && s.Addr == netip.MustParseAddr("10.0.1.9")
			}); n != 2 {
				return fmt.Errorf("%d frames", n)
			}
			return nil
		})
	})
}

// TestStuck: what a NIC doesn't take is lost, and nobody waits for it.
func TestStuck(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, there := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", there, "eth0")
		at := netip.MustParsePrefix("10.0.0.1/24")
		here.Addr(t, "eth0", at.String())
		there.Addr(t, "eth0", "10.0.0.2/24")
		here.Exec(t, "ip", "neigh", "replace", "10.0.0.2", "lladdr", net.HardwareAddr(mac(there.MAC(t, "eth0"))).String(), "dev", "eth0")
		here.Exec(t, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "8bit", "burst", "1600", "limit", "100000000")
		w := New(7474, slog.New(slog.DiscardHandler))
		w.Tell(hearer(make(chan [6]byte)))
		index := here.Index(t, "eth0")
		link := heartbeat.Link{Index: index, Addr: at.Addr(), NIC: heartbeat.NIC{Name: "eth0", Carrier: true, MAC: here.MAC(t, "eth0"), Addrs: []netip.Prefix{at}}}
		if err := w.Set([]heartbeat.Link{link}); err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		to, packet := netip.MustParseAddrPort("10.0.0.2:7474"), make([]byte, 1200)
		claim := [][]byte{frame.Announcements(netip.MustParseAddr("10.0.0.9"), link.MAC)[0]}
		for what, send := range map[string]func() error{
			"a beat":     func() error { return w.Send(index, at.Addr(), to, packet) },
			"a question": func() error { return w.Enquire(index, to.Addr(), [6]byte{}) },
			"a claim":    func() error { return w.Transmit(index, claim) },
		} {
			ended := make(chan error, 1)
			go func() {
				var err error
				for i := 0; i < 5000 && err == nil; i++ {
					err = send()
				}
				ended <- err
			}()
			select {
			case err := <-ended:
				if !errors.Is(err, syscall.EAGAIN) {
					t.Errorf("%s: %v, want that it would have to wait", what, err)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s waits for the NIC", what)
			}
		}
	})
}

func mac(m [6]byte) []byte { return m[:] }

type hearer chan [6]byte

func (h hearer) Receive(int, netip.AddrPort, netip.Addr, []byte) {}
func (h hearer) Answered(_ int, _ netip.Addr, mac [6]byte) {
	select {
	case h <- mac:
	default:
	}
}

// TestIdleCost: what heartbeats cost a node with two peers and two NICs is a
// small part of the 0.3 % of a core that an idle agent may take.
func TestIdleCost(t *testing.T) {
	if os.Getenv("PATCHBAY_LONG") == "" {
		t.Skip("measures for 20 s: set PATCHBAY_LONG")
	}
	netlab.Isolate(t, func(t *testing.T) {
		a, b := pair(t)
		await(t, "heard", a, "n2", func(p heartbeat.Peer) bool { return p.Known && len(p.Links) == 2 })
		before, begin := usage(t), time.Now()
		<-time.After(20 * time.Second)
		// Two nodes with one peer each send and hear as much as one with two.
		share := float64(usage(t)-before) / float64(time.Since(begin))
		t.Logf("%.3f %% of a core", 100*share)
		if !slices.Equal(a.View().Peers["n2"].Links, []int{a.ns.Index(t, "eth0"), a.ns.Index(t, "eth1")}) || b == nil {
			t.Error("not heard all along")
		}
	})
}

func usage(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
