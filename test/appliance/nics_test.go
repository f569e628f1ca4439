// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// nic is what patchbayctl says of an interface; nil if nothing.
func (a *Appliance) nic(t *testing.T, n *site.Node, name string) *agentapi.NIC {
	t.Helper()
	var list []agentapi.NIC
	if err := json.Unmarshal([]byte(a.mustCtl(t, n.Node, "nics", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, nic := range list {
		if nic.Name == name {
			return &nic
		}
	}
	return nil
}

// awaitNIC waits until patchbayctl says of an interface what it must.
func (a *Appliance) awaitNIC(t *testing.T, n *site.Node, what, name string, is func(*agentapi.NIC) bool) {
	t.Helper()
	began := time.Now()
	var last *agentapi.NIC
	err := netlab.Poll(5*time.Second, func() error {
		if last = a.nic(t, n, name); last == nil || !is(last) {
			return errors.New("not so")
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %s is %+v", what, name, last)
		return
	}
	t.Logf("%s: %s %s (%s), after %v", what, name, last.Role, last.Reason, time.Since(began).Round(time.Millisecond))
}

// TestNICsAreFollowed changes a node's NICs while it runs.
func TestNICsAreFollowed(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		n, plant := a.Nodes[0], netlab.New(t)
		programs := func(nic *agentapi.NIC) bool { return strings.Contains(strings.Join(nic.Programs, " "), "ingress ") }
		external := func(nic *agentapi.NIC) bool { return nic.Role == "external" && programs(nic) }
		ignored := func(nic *agentapi.NIC) bool { return nic.Role == "ignored" && len(nic.Programs) == 0 }

		a.awaitNIC(t, n, "at the start", "eth0", func(nic *agentapi.NIC) bool {
			return nic.Role == "internal" && nic.Carrier && programs(nic) && strings.Contains(fmt.Sprint(nic.Addrs), n.Internal.String())
		})
		netlab.Wire(t, n.Net, "eth2", plant, "eth0")
		a.awaitNIC(t, n, "a new NIC", "eth2", ignored)
		n.Net.Addr(t, "eth2", "10.99.0.10/24")
		a.Declare("pools-plant", "apiVersion: patchbay.net/v1alpha1\nkind: IPPool\nmetadata: {name: plant}\nspec: {use: LoadBalancer, ranges: [{first: 10.99.0.200, last: 10.99.0.209}]}\n")
		a.awaitNIC(t, n, "with an address in a pool's subnet", "eth2", external)
		n.Net.Down(t, "eth2")
		n.Net.Exec(t, "ip", "link", "set", "eth2", "name", "plant0")
		n.Net.Up(t, "plant0")
		a.awaitNIC(t, n, "by another name", "plant0", external)
		plant.Down(t, "eth0")
		a.awaitNIC(t, n, "without carrier", "plant0", func(nic *agentapi.NIC) bool { return !nic.Carrier && external(nic) })
		plant.Up(t, "eth0")
		a.awaitNIC(t, n, "with carrier again", "plant0", func(nic *agentapi.NIC) bool { return nic.Carrier && external(nic) })
		n.Net.Exec(t, "ip", "addr", "change", "10.99.0.10/24", "dev", "plant0", "valid_lft", "999", "preferred_lft", "999")
		a.awaitNIC(t, n, "with a dynamic address", "plant0", func(nic *agentapi.NIC) bool { return fmt.Sprint(nic.Dynamic) == "[IPv4]" })
		n.Net.Exec(t, "ip", "addr", "flush", "dev", "plant0")
		a.awaitNIC(t, n, "without an address", "plant0", ignored)
		n.Net.Exec(t, "ip", "link", "del", "plant0")
		netlab.WaitFor(t, 5*time.Second, "that it is gone", func() error {
			if nic := a.nic(t, n, "plant0"); nic != nil {
				return fmt.Errorf("still %+v", nic)
			}
			return nil
		})
	})
}

// A modem has no MAC address: packets of nodes and pods leave by it with its
// address all the same, where the default route says so.
func TestModemAsUplink(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		n := a.Nodes[0]
		pod := n.StartPod("web-0", "sleep", "infinity")
		modem := openTun(t, n.Net, "wwan0")
		n.Net.Exec(t, "ip", "addr", "add", "100.64.0.9/32", "dev", "wwan0")
		n.Net.Exec(t, "ip", "-6", "addr", "add", "2001:db8:64::9/64", "dev", "wwan0", "nodad")
		n.Net.Up(t, "wwan0")
		n.Net.Exec(t, "ip", "route", "replace", "default", "dev", "wwan0")
		n.Net.Exec(t, "ip", "-6", "route", "replace", "default", "dev", "wwan0")
		a.awaitNIC(t, n, "a modem", "wwan0", func(nic *agentapi.NIC) bool {
			return nic.Role == "ignored" && len(nic.Programs) == 0 && strings.Contains(nic.Reason, "no MAC address")
		})
		for _, want := range []struct{ to, from string }{{InternetHost, "100.64.0.9"}, {InternetHost6, "2001:db8:64::9"}} {
			for what, ns := range map[string]*netlab.Namespace{"pod": pod.Net(), "node": n.Net} {
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = ns.Do(func() error {
						conn, err := net.DialTimeout("tcp", net.JoinHostPort(want.to, "80"), 2*time.Second) // asks twice
						if err == nil {
							conn.Close()
						}
						return err
					})
				}()
				err := awaitSource(modem, want.to, want.from)
				<-done
				if err != nil {
					t.Log(n.Net.Exec(t, "sh", "-c", "ip -6 route; ip -6 addr show wwan0; ip -6 route get "+InternetHost6), a.mustCtl(t, n.Node, "drops"))
					t.Errorf("%s to %s: %v", what, want.to, err)
				}
			}
		}
	})
}

// awaitSource reads packets until one goes to an address, from another.
func awaitSource(modem *os.File, to, from string) error {
	dst, src := netip.MustParseAddr(to), netip.MustParseAddr(from)
	if err := modem.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	last := errors.New("nothing left by the modem")
	for packet := make([]byte, 2048); ; {
		length, err := modem.Read(packet)
		if err != nil {
			return errors.Join(last, err)
		}
		var source, target netip.Addr
		switch {
		case length >= 20 && packet[0]>>4 == 4:
			source, target = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		case length >= 40 && packet[0]>>4 == 6:
			source, target = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		}
		if target != dst {
			continue
		}
		if source == src {
			return nil
		}
		last = fmt.Errorf("it left with %s", source)
	}
}

// openTun makes a device of layer 3 in a namespace and returns its other end.
func openTun(t *testing.T, ns *netlab.Namespace, name string) *os.File {
	t.Helper()
	fd := -1
	err := ns.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		var request struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(request.name[:], name)
		request.flags = unix.IFF_TUN | unix.IFF_NO_PI
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		t.Fatalf("make %s: %v", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { f.Close() })
	return f
}

// The nodes test the ways between them, plainly and through the tunnel, and say
// what is wrong with them.
func TestNodesTestTheirNetwork(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		na, nb := a.Nodes[0], a.Nodes[1]
		for _, n := range a.Nodes {
			a.configure(t, n, "routing: {mode: vxlan}\n")
		}
		problems := func() string { out, _ := a.Ctl(na.Node, "status", "-o", "json"); return out }
		if got := problems(); strings.Contains(got, "get through") {
			t.Errorf("at the start: %s", got)
		}
		// The switch has a narrow port towards the other node.
		narrow := strings.TrimSpace(a.Device.Net.Exec(t, "sh", "-c", fmt.Sprintf(`ip -o link | grep 'master pb-int' | sed -n 's/^\([0-9]*\): \(pbs[0-9a-f]*\)@.*/\2/p' | while read l; do
			bridge fdb show br pb-int dev $l | grep -q %s && echo $l; done`, mac(nb.Net.MAC(t, "eth0")))))
		a.Device.Net.Exec(t, "ip", "link", "set", narrow, "mtu", "1400")
		na.Net.Exec(t, "ip", "link", "set", "eth0", "mtu", "1490") // a change has the nodes test
		netlab.WaitFor(t, 30*time.Second, "the word of it", func() error {
			got := problems()
			for _, want := range []string{"eth0: packets of 1490 bytes don't get through to node node-b", "pb-vxlan: packets of 1440 bytes don't get through to node node-b"} {
				if !strings.Contains(got, want) {
					return fmt.Errorf("%q is missing in %s", want, got)
				}
			}
			return nil
		})
		a.Device.Net.Exec(t, "ip", "link", "set", narrow, "mtu", "1500")
		na.Net.Exec(t, "ip", "link", "set", "eth0", "mtu", "1500")
		netlab.WaitFor(t, 30*time.Second, "that all is well", func() error {
			if got := problems(); strings.Contains(got, "get through") {
				return errors.New(got)
			}
			return nil
		})
	})
}

func mac(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
