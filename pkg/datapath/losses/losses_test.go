// SPDX-License-Identifier: Apache-2.0

package losses_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

// TestLost drops packets at a NIC and a pod, for reasons of several kinds, and
// sees each as it came, before, while and after somebody looks.
func TestLost(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		self, outside, pod := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t), netlab.New(t)
		netlab.Wire(t, self, "ext", outside, "eth0")
		netlab.Wire(t, self, "pod", pod, "eth0")
		d, err := datapath.Open(datapath.Options{PinDir: "/sys/fs/bpf/patchbay"})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		self.Addr(t, "ext", "192.0.2.1/24")
		podAddr := netip.MustParseAddr("10.244.1.10")
		must(t, d.SetNIC(datapath.NIC{Index: self.Index(t, "ext"), Name: "ext", Role: datapath.External, MAC: self.MAC(t, "ext"), MTU: 1500,
			Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}))
		must(t, d.SetRoutes([]datapath.Route{
			{Prefix: netip.MustParsePrefix("10.244.1.0/24"), Kind: datapath.RouteLocalPods},
			{Prefix: netip.MustParsePrefix("10.96.0.0/16"), Kind: datapath.RouteService},
		}))
		must(t, d.AddEndpoint(datapath.Endpoint{IfIndex: self.Index(t, "pod"), HostMAC: self.MAC(t, "pod"), MAC: pod.MAC(t, "eth0"), Addrs: []netip.Addr{podAddr}}))

		syn := packet.TCP{Src: 1000, Dst: 80, Flags: packet.SYN}
		forged := packet.Build(packet.Eth{Src: outside.MAC(t, "eth0"), Dst: self.MAC(t, "ext")},
			packet.IPv4{Src: podAddr, Dst: netip.MustParseAddr("192.0.2.1")}, syn, packet.Payload(make([]byte, 400)))
		fromPod := packet.Eth{Src: pod.MAC(t, "eth0"), Dst: self.MAC(t, "pod")}
		nobody := packet.Build(fromPod, packet.IPv4{Src: podAddr, Dst: netip.MustParseAddr("10.244.1.99")}, syn)
		service := packet.Build(fromPod, packet.IPv4{Src: podAddr, Dst: netip.MustParseAddr("10.96.1.1")}, syn)

		before := programs(t)
		send(t, outside, forged) // nobody looks
		if _, err := d.Lost(time.Now()); err != nil {
			t.Fatalf("%+v", err)
		}
		if programs(t) == before {
			t.Error("programs are the same while somebody looks")
		}
		for _, c := range []struct {
			name, reason, program string
			from                  *netlab.Namespace
			frame                 []byte
			answered              bool
		}{
			{"forged source", "forged-source", "tc_uplink_in", outside, forged, false},
			{"no pod", "no-pod", "tc_pod_in", pod, nobody, true},
			{"no Service", "no-service", "tc_pod_in", pod, service, false},
		} {
			send(t, c.from, c.frame)
			var got []datapath.LostPacket
			netlab.WaitFor(t, 2*time.Second, c.name, func() error {
				more, err := d.Lost(time.Now().Add(50 * time.Millisecond))
				got = append(got, more...)
				if err == nil && len(got) == 0 {
					err = errors.New("nothing seen")
				}
				return err
			})
			p := got[0]
			if len(got) != 1 || p.Reason != c.reason || p.Program != c.program || p.Answered != c.answered || p.Length != len(c.frame) ||
				!bytes.Equal(p.Data, c.frame[:min(len(c.frame), 256)]) || time.Since(p.Time).Abs() > 5*time.Second {
				t.Errorf("%s: got %d, %+v", c.name, len(got), p)
			}
		}
		netlab.WaitFor(t, 6*time.Second, "the programs themselves", func() error {
			if programs(t) != before {
				return errors.New("others are in force")
			}
			return nil
		})
		drops, err := d.Drops()
		if err != nil || len(drops) != 3 {
			t.Errorf("counted %v, %v", drops, err)
		}
	})
}

// programs are the programs that are in force, as tc and bpftool's kin see them.
func programs(t *testing.T) string {
	t.Helper()
	self := netlab.Open(t, "/proc/self/ns/net")
	return self.Exec(t, "sh", "-c", "tc filter show dev pod ingress; tc filter show dev pod egress; bpftool net show dev ext")
}

func send(t *testing.T, ns *netlab.Namespace, frame []byte) {
	t.Helper()
	must(t, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ns.Index(t, "eth0"), Halen: 6})
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
