// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

// inject sends a frame out of an interface, as it is.
func inject(t *testing.T, ns *netlab.Namespace, name string, frame []byte) {
	t.Helper()
	index := ns.Index(t, name)
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}), unix.Close(fd))
	})
	if err != nil {
		t.Fatalf("inject on %s: %v", name, err)
	}
}

// priority gives a frame 802.1Q tags that name no VLAN, only a priority: the
// kernel takes such a frame as one without them.
func priority(frame []byte, tags int) []byte {
	out := append([]byte{}, frame[:12]...)
	for range tags {
		out = append(out, 0x81, 0, 0xa0, 0)
	}
	return append(out, frame[12:]...)
}

// seen counts the frames that came in by a capture's interface with a text in them.
func seen(c *netlab.Capture, text string) int {
	return c.Count(func(f netlab.Frame) bool { return !f.Outgoing && bytes.Contains(f.Data, []byte(text)) })
}

// TestForgedFrames sends what would reach a pod if any check had a way around:
// frames that claim to be another pod's, the tunnel's, or to come from inside.
func TestForgedFrames(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, true)
		n, peer := l.nodes[0], l.nodes[1]
		attacker, victim := n.pods[0], n.pods[1]
		capture := netlab.NewCapture(t, victim.ns, "eth0")

		var (
			nowhere   = packet.MAC{2, 0, 0, 0xde, 0xad, 1}
			fromPod   = packet.Eth{Src: attacker.ns.MAC(t, "eth0"), Dst: n.ns.MAC(t, "pod10")}
			outside   = packet.Eth{Src: l.client.MAC(t, "eth0"), Dst: n.ns.MAC(t, "ext")}
			toAll     = packet.Eth{Src: outside.Src, Dst: packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
			client    = netip.MustParseAddr(families()[0].client)
			broadcast = netip.MustParseAddr("255.255.255.255")
			allHosts  = netip.MustParseAddr("224.0.0.1")
			peers     = peer.addrs(false)
			option    = packet.Payload{17, 0, 1, 4, 0, 0, 0, 0} // destination options: padding; UDP follows
		)
		datagram := func(marker string) []packet.Layer {
			return []packet.Layer{
				packet.IPv4{Src: peer.pods[0].addrs[0], Dst: victim.addrs[0]}, packet.UDP{Src: 4000, Dst: 9999}, packet.Payload(marker),
			}
		}
		build := func(before []packet.Layer, after ...packet.Layer) []byte {
			return packet.Build(append(append([]packet.Layer{}, before...), after...)...)
		}
		tunnelled := func(marker string, before ...packet.Layer) []byte {
			before = append(before, packet.UDP{Src: 5000, Dst: 4789}, packet.VXLAN{VNI: 20546}, packet.Eth{Src: nowhere, Dst: nowhere})
			return build(before, datagram(marker)...)
		}
		tests := []struct {
			name   string
			pod    bool // sent by the pod, else from outside
			frame  func(marker string) []byte
			reason string
		}{
			{"priority tag, another pod's source", true, func(m string) []byte {
				return priority(build([]packet.Layer{fromPod}, datagram(m)...), 1)
			}, "malformed"},
			{"priority tag, from outside to a pod", false, func(m string) []byte {
				return priority(packet.Build(outside, packet.IPv4{Src: client, Dst: victim.addrs[0]}, packet.UDP{Src: 4000, Dst: 9999}, packet.Payload(m)), 1)
			}, "pod-outside"},
			{"priority tag, tunnel packet", false, func(m string) []byte {
				return priority(tunnelled(m, outside, packet.IPv4{Src: peers[0], Dst: n.addrs(true)[0]}), 1)
			}, "forged-tunnel"},
			{"tunnel packet", false, func(m string) []byte {
				return tunnelled(m, outside, packet.IPv4{Src: peers[0], Dst: n.addrs(true)[0]})
			}, "forged-tunnel"},
			{"tunnel packet by broadcast", false, func(m string) []byte {
				return tunnelled(m, toAll, packet.IPv4{Src: peers[0], Dst: broadcast})
			}, "forged-tunnel"},
			{"tunnel packet behind an IPv6 option", false, func(m string) []byte {
				return tunnelled(m, outside, packet.IPv6{Src: peers[1], Dst: n.addrs(true)[1], NextHeader: 60}, option)
			}, "forged-tunnel"},
			{"pod's tunnel packet by broadcast", true, func(m string) []byte {
				return tunnelled(m, fromPod, packet.IPv4{Src: peers[0], Dst: broadcast})
			}, "pod-source"},
			{"pod's tunnel packet by multicast", true, func(m string) []byte {
				return tunnelled(m, fromPod, packet.IPv4{Src: peers[0], Dst: allHosts})
			}, "pod-source"},
			{"pod's tunnel packet to its node", true, func(m string) []byte {
				return tunnelled(m, fromPod, packet.IPv4{Src: attacker.addrs[0], Dst: n.addrs(true)[0]})
			}, "pod-tunnel"},
			{"pod's tunnel packet to the outside", true, func(m string) []byte {
				return tunnelled(m, fromPod, packet.IPv4{Src: attacker.addrs[0], Dst: client})
			}, "pod-tunnel"},
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				marker := fmt.Sprintf("forged %d.", i)
				before := n.dropped(t, tt.reason)
				from := l.client
				if tt.pod {
					from = attacker.ns
				}
				inject(t, from, "eth0", tt.frame(marker))
				err := netlab.Poll(2*time.Second, func() error {
					if n.dropped(t, tt.reason) == before {
						return errors.New("none counted")
					}
					return nil
				})
				if err != nil {
					t.Errorf("drop for %s: %v; all: %s", tt.reason, err, l.drops(t))
				}
				if got := seen(capture, marker); got != 0 {
					t.Errorf("the pod received %d such datagrams", got)
				}
			})
		}
		// That the pod would receive what isn't forged.
		inject(t, peer.ns, "int", tunnelled("genuine", packet.Eth{Src: peer.ns.MAC(t, "int"), Dst: n.ns.MAC(t, "int")},
			packet.IPv4{Src: peers[0], Dst: n.addrs(false)[0]}))
		netlab.WaitFor(t, 2*time.Second, "the peer's own tunnel packet", func() error {
			if seen(capture, "genuine") == 0 {
				return fmt.Errorf("not received; drops: %s", l.drops(t))
			}
			return nil
		})
	})
}

// TestPriorityTagged checks that frames with a priority are served as others are.
func TestPriorityTagged(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		capture := netlab.NewCapture(t, l.client, "eth0")
		eth := packet.Eth{Src: l.client.MAC(t, "eth0"), Dst: l.nodes[0].ns.MAC(t, "ext")}
		f := families()[0]
		client, vip := netip.MustParseAddr(f.client), netip.MustParseAddr(f.loadBalancer)
		for tags := range 2 {
			text := fmt.Sprintf("with %d tags", tags)
			request := packet.Build(eth, packet.IPv4{Src: client, Dst: vip}, packet.UDP{Src: uint16(4000 + tags), Dst: 80}, packet.Payload(text))
			inject(t, l.client, "eth0", priority(request, tags))
			netlab.WaitFor(t, 2*time.Second, "answer to the request "+text, func() error {
				if seen(capture, text) == 0 {
					return fmt.Errorf("none; drops: %s", l.drops(t))
				}
				return nil
			})
		}
	})
}

// TestOthersFrames checks that a NIC that is promiscuous, as while somebody
// captures, serves nothing that was sent to another machine.
func TestOthersFrames(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		l.setServices(t)
		capture := netlab.NewCapture(t, l.client, "eth0")
		for _, n := range l.nodes {
			n.ns.Exec(t, "ip", "link", "set", "ext", "promisc", "on")
		}
		f := families()[0]
		request := func(to packet.MAC, port uint16, text string) []byte {
			return packet.Build(packet.Eth{Src: l.client.MAC(t, "eth0"), Dst: to},
				packet.IPv4{Src: netip.MustParseAddr(f.client), Dst: netip.MustParseAddr(f.loadBalancer)},
				packet.UDP{Src: port, Dst: 80}, packet.Payload(text))
		}
		inject(t, l.client, "eth0", request(packet.MAC{2, 0, 0, 0xde, 0xad, 1}, 4001, "to nobody"))
		inject(t, l.client, "eth0", request(l.nodes[0].ns.MAC(t, "ext"), 4002, "to the node"))
		netlab.WaitFor(t, 2*time.Second, "answer to the later request", func() error {
			if seen(capture, "to the node") == 0 {
				return fmt.Errorf("none; drops: %s", l.drops(t))
			}
			return nil
		})
		if got := seen(capture, "to nobody"); got != 0 {
			t.Errorf("another machine's frame was answered %d times", got)
		}
	})
}

// TestTunnelTells checks that who asks for a pod that isn't there hears of it
// through the tunnel, too.
func TestTunnelTells(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, true)
		for _, f := range families() {
			to := net.JoinHostPort(fmt.Sprintf(f.pod, 2, 77), "80")
			if _, err := askFrom(l.nodes[0].pods[0].ns, "tcp", to, "?"); !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("%s: want no route to host, got %v; drops: %s", to, err, l.drops(t))
			}
		}
	})
}
