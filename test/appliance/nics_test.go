// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
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
		a.declaredNIC(t, n, plant, external)
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

// declaredNIC declares a NIC that isn't there: that is told for as long as it isn't.
func (a *Appliance) declaredNIC(t *testing.T, n *site.Node, at *netlab.Namespace, is func(*agentapi.NIC) bool) {
	t.Helper()
	path := n.Path("/etc/patchbay/config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a.write(path, strings.Replace(string(text), "nics: [", "nics: [{name: cameras, role: external}, ", 1))
	a.configure(t, n, "")
	const missing = "no interface with name cameras for role external"
	told := func(want bool) {
		t.Helper()
		netlab.WaitFor(t, 10*time.Second, fmt.Sprintf("the word that it is missing: %t", want), func() error {
			if got, err := a.Ctl(n.Node, "status", "-o", "json"); err != nil || strings.Contains(got, missing) != want {
				return fmt.Errorf("%w: %s", err, got)
			}
			return nil
		})
	}
	told(true)
	netlab.Wire(t, n.Net, "cameras", at, "eth9")
	a.awaitNIC(t, n, "when it appears", "cameras", is)
	told(false)
}

// A modem has no MAC address: nodes and pods reach the Internet by it with its
// address all the same, where the default route says so, while what comes in by
// other ways is answered by those.
func TestModemAsUplink(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		a.serveAll(t)
		web, _ := a.shop(t)
		n := a.Nodes[0]
		carrier := netlab.New(t) // what the modem dials into
		Serve(t, carrier, "carrier")
		for _, address := range []string{InternetHost + "/32", InternetHost6 + "/128"} {
			carrier.Addr(t, "lo", address)
		}
		modem, mast := openTun(t, n.Net, "wwan0"), openTun(t, carrier, "air")
		carry(modem, mast)
		carry(mast, modem)
		carrier.Up(t, "air")
		carrier.Route(t, "100.64.0.0/16", netip.Addr{}, "air")
		carrier.Route(t, "2001:db8:64::/64", netip.Addr{}, "air")
		n.Net.Exec(t, "ip", "addr", "add", "100.64.0.9/32", "dev", "wwan0")
		n.Net.Exec(t, "ip", "-6", "addr", "add", "2001:db8:64::9/64", "dev", "wwan0", "nodad")
		n.Net.Up(t, "wwan0")
		n.Net.Exec(t, "ip", "route", "replace", "default", "dev", "wwan0")
		n.Net.Exec(t, "ip", "-6", "route", "replace", "default", "dev", "wwan0")
		a.awaitNIC(t, n, "a modem", "wwan0", func(nic *agentapi.NIC) bool {
			return nic.Role == "ignored" && len(nic.Programs) == 0 && strings.Contains(nic.Reason, "no MAC address")
		})
		ways := a.Watch()
		for _, p := range []probe{
			{"pod to the Internet", web[0].Net(), InternetHost, "carrier", "100.64.0.9", ""},
			{"the same, IPv6", web[0].Net(), InternetHost6, "carrier", "2001:db8:64::9", ""},
			{"node to the Internet", n.Net, InternetHost, "carrier", "100.64.0.9", ""},
			{"the same, IPv6", n.Net, InternetHost6, "carrier", "2001:db8:64::9", ""},
			{"pod to a machine outside", web[0].Net(), OutsideHost, "outside", n.External.String(), "port3"},
			{"the same, IPv6", web[0].Net(), OutsideHost6, "outside", n.External6.String(), "port3"},
			{"outside to the LoadBalancer address", a.Outside, "192.168.50.210", "web-", OutsideHost, "port3"},
			{"the same, IPv6", a.Outside, "fd00:50::210", "web-", OutsideHost6, "port3"},
			{"camera behind the gateway to it", a.Camera, "192.168.50.210", "web-", CameraHost, "port3"},
			{"the same, IPv6", a.Camera, "fd00:50::210", "web-", CameraHost6, "port3"},
			{"pod to the other node's pod", web[0].Net(), web[1].Addr.String(), "web-1", web[0].Addr.String(), ""},
		} {
			p.check(t, ways)
		}
		carrier.Route(t, "10.244.0.0/16", netip.Addr{}, "air") // whoever the carrier lets in
		carrier.Route(t, "fd00:10:244::/48", netip.Addr{}, "air")
		probe{"the carrier to a pod", carrier, web[0].Addr.String(), "", "", ""}.check(t, ways)
		probe{"the same, IPv6", carrier, web[0].Addr6.String(), "", "", ""}.check(t, ways)
	})
}

// carry takes packets from one tun to another, until the test closes one.
func carry(from, to *os.File) {
	go func() {
		for packet := make([]byte, 1<<16); ; {
			length, err := from.Read(packet)
			if err != nil {
				return
			}
			_, _ = to.Write(packet[:length]) // what the other end can't take is lost
		}
	}()
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
