// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// wire carries frames between two interfaces of the namespace it is called in, as
// they would be on a real wire: a checksum that a NIC was to fill in is what it
// was handed. Frames longer than longest are lost.
func wire(t *testing.T, ns *netlab.Namespace, a, b string, longest int) {
	t.Helper()
	open := func(name string) int {
		fd := -1
		err := ns.Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
			if err != nil {
				return err
			}
			// What this end sends is the other's, and must not be read back.
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
				return err
			}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ns.Index(t, name)})
		})
		if err != nil {
			t.Fatalf("packet socket on %s: %v", name, err)
		}
		return fd
	}
	ends, stop := [2]int{open(a), open(b)}, make(chan struct{})
	done := make(chan struct{}, 2)
	for i := range ends {
		go func() {
			defer func() { done <- struct{}{} }()
			for frame := make([]byte, 1<<16); ; {
				select {
				case <-stop:
					return
				default:
				}
				n, _, err := unix.Recvfrom(ends[i], frame, 0)
				if err == nil && n <= longest {
					_, _ = unix.Write(ends[1-i], frame[:n])
				}
			}
		}()
	}
	t.Cleanup(func() {
		close(stop)
		<-done
		<-done
		for _, fd := range ends {
			unix.Close(fd)
		}
	})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name    string
		broken  bool // our NIC doesn't fill in checksums
		longest int
		verdict Verdict
		off     bool
		text    string
	}{
		{"a good network", false, 1 << 16, Well, false, ""},
		{"a NIC that gets checksums wrong", true, 1 << 16, Checksum, true, "eth0: checksum offload is broken and was switched off"},
		{"a network that bears less", false, 1400, Large, false, "packets of 1500 bytes don't get through"},
		{"both", true, 1400, Checksum, true, "was switched off"},
	} {
		for _, family := range []struct{ a, b string }{{"192.0.2.1/24", "192.0.2.2/24"}, {"fd00::1/64", "fd00::2/64"}} {
			t.Run(tt.name+" "+family.a, func(t *testing.T) {
				netlab.Require(t)
				a, b, between := netlab.New(t), netlab.New(t), netlab.New(t)
				netlab.Wire(t, a, "eth0", between, "eth0")
				netlab.Wire(t, b, "eth0", between, "eth1")
				a.Addr(t, "eth0", family.a)
				b.Addr(t, "eth0", family.b)
				// Segments that the hardware was to cut would be longer than frames.
				for ns, on := range map[*netlab.Namespace]bool{a: tt.broken, b: false} {
					err := ns.Do(func() error { return SetChecksumOffload("eth0", on) })
					if err != nil {
						t.Fatal(err)
					}
				}
				wire(t, between, "eth0", "eth1", tt.longest)
				from, to := netip.MustParsePrefix(family.a).Addr(), netip.MustParsePrefix(family.b).Addr()
				serve(t, b, from)

				var got Outcome
				var offload bool
				a.Run(t, func() {
					got = Run(t.Context(), Way{NIC: "eth0", MTU: 1500, From: from, To: to, Node: "b"})
					var err error
					if offload, err = ChecksumOffload("eth0"); err != nil {
						t.Error(err)
					}
				})
				if got.Verdict != tt.verdict || got.SwitchedOff != tt.off || offload {
					t.Errorf("outcome: got %+v, offload %t; want %v, switched off %t", got, offload, tt.verdict, tt.off)
				}
				if (got.Err == nil) != (tt.text == "") || got.Err != nil && !strings.Contains(got.Err.Error(), tt.text) {
					t.Errorf("error: %v, want %q", got.Err, tt.text)
				}
			})
		}
	}
}

// serve answers in a namespace for one that may ask.
func serve(t *testing.T, ns *netlab.Namespace, known netip.Addr) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_ = ns.Do(func() error {
			udp, tcp := make(chan error, 1), error(nil)
			go func() {
				udp <- ns.Do(func() error { return answer(ctx, func(a netip.Addr) bool { return a == known }) })
			}()
			tcp = count(ctx, func(a netip.Addr) bool { return a == known })
			if err := <-udp; err != nil {
				tcp = err
			}
			done <- tcp
			return nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// Nobody there, or nobody who knows us, is no verdict on a NIC.
func TestAbsent(t *testing.T) {
	netlab.Require(t)
	a, b := netlab.New(t), netlab.New(t)
	netlab.Wire(t, a, "eth0", b, "eth0")
	a.Addr(t, "eth0", "192.0.2.1/24")
	b.Addr(t, "eth0", "192.0.2.2/24")
	from, to := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	serve(t, b, netip.MustParseAddr("192.0.2.9"))
	began := time.Now()
	a.Run(t, func() {
		if got := Run(t.Context(), Way{NIC: "eth0", MTU: 1500, From: from, To: to}); got.Verdict != Absent || got.Err != nil {
			t.Errorf("outcome: %+v", got)
		}
		if on, err := ChecksumOffload("eth0"); !on || err != nil {
			t.Errorf("offload: %t, %v", on, err)
		}
	})
	t.Logf("in %v", time.Since(began))
}

// A NIC may get the checksums right of what it sends plainly, and wrong of what is
// in a tunnel: then the tunnel's device is not to leave them to it.
func TestTunnel(t *testing.T) {
	for name, inner := range map[string][2]string{"IPv4": {"10.244.0.0", "10.244.4.0"}, "IPv6": {"fd00:244::", "fd00:244:4::"}} {
		t.Run(name, func(t *testing.T) {
			netlab.Require(t)
			a, b, between := netlab.New(t), netlab.New(t), netlab.New(t)
			for i, ns := range []*netlab.Namespace{a, b} {
				netlab.Wire(t, ns, "eth0", between, fmt.Sprint("eth", i))
				ns.Addr(t, "eth0", fmt.Sprintf("192.0.2.%d/24", i+1))
				ns.Exec(t, "ip", "link", "add", "pb-vxlan", "mtu", "1450", "type", "vxlan", "id", "7", "dstport", "4789", "noudpcsum",
					"local", fmt.Sprintf("192.0.2.%d", i+1), "remote", fmt.Sprintf("192.0.2.%d", 2-i))
				ns.Up(t, "pb-vxlan")
				ns.Addr(t, "pb-vxlan", fmt.Sprintf("%s/%d", inner[i], map[string]int{"IPv4": 32, "IPv6": 128}[name]))
				ns.Route(t, fmt.Sprintf("%s/%d", inner[1-i], map[string]int{"IPv4": 32, "IPv6": 128}[name]), netip.Addr{}, "pb-vxlan")
			}
			if err := b.Do(func() error { return SetChecksumOffload("pb-vxlan", false) }); err != nil {
				t.Fatal(err)
			}
			wire(t, between, "eth0", "eth1", 1514)
			from, to := netip.MustParseAddr(inner[0]), netip.MustParseAddr(inner[1])
			serve(t, b, from)
			netlab.WaitFor(t, 10*time.Second, "the tunnel", func() error { // whose checksums are no hardware's
				_, err := a.TryExec("ping", "-c", "1", "-W", "1", "-I", inner[0], inner[1])
				return err
			})
			a.Run(t, func() {
				got := Run(t.Context(), Way{NIC: "pb-vxlan", MTU: 1450, From: from, To: to, Node: "b"})
				if got.Verdict != Checksum || !got.SwitchedOff || got.Err == nil || !strings.Contains(got.Err.Error(), "pb-vxlan: checksum offload is broken and was switched off") {
					t.Errorf("outcome: %+v", got)
				}
				for nic, want := range map[string]bool{"pb-vxlan": false, "eth0": true} {
					if on, err := ChecksumOffload(nic); err != nil || on != want {
						t.Errorf("offload of %s: %t, %v, want %t", nic, on, err, want)
					}
				}
				if got := Run(t.Context(), Way{NIC: "pb-vxlan", MTU: 1450, From: from, To: to, Node: "b"}); got.Verdict != Well || got.Err != nil {
					t.Errorf("afterwards: %+v", got)
				}
				if got := Run(t.Context(), Way{NIC: "pb-vxlan", MTU: 1500, From: from, To: to, Node: "b"}); got.Verdict != Large {
					t.Errorf("larger than the way: %+v", got)
				}
			})
		})
	}
}
