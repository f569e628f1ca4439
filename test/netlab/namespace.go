// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name, held by a file descriptor.
type Namespace struct {
	fd *os.File
}

// New makes a network namespace with lo up. It ends with the test.
func New(tb TB) *Namespace {
	tb.Helper()
	fd, err := unshareNetwork()
	must(tb, err, "make network namespace")
	ns := &Namespace{fd: fd}
	tb.Cleanup(func() { fd.Close() })
	ns.Up(tb, "lo")
	return ns
}

// unshareNetwork opens a new network namespace and comes back from it. It goes
// home rather than leave the thread to die: the main thread never does, and is
// what /proc/self shows.
func unshareNetwork() (*os.File, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	fd, err := os.Open("/proc/thread-self/ns/net")
	if homeErr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); homeErr != nil {
		return nil, homeErr // and the thread stays locked
	}
	runtime.UnlockOSThread()
	return fd, err
}

// Open holds the network namespace of a path, such as /proc/PID/ns/net.
func Open(tb TB, path string) *Namespace {
	tb.Helper()
	fd, err := os.Open(path)
	must(tb, err, "open network namespace")
	tb.Cleanup(func() { fd.Close() })
	return &Namespace{fd: fd}
}

// Path names the namespace for other processes as long as this one lives: it is good for CNI_NETNS.
func (ns *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd.Fd())
}

// FD returns the descriptor that holds the namespace; it stays the namespace's.
func (ns *Namespace) FD() int { return int(ns.fd.Fd()) }

// Do runs f with the calling goroutine's thread in the namespace and returns f's
// error. A thread that can't be brought back stays locked, and ends with its
// goroutine. Sockets made by f stay in the namespace; goroutines that f starts
// are not in it.
func (ns *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Run runs f in the namespace, as Do does.
func (ns *Namespace) Run(tb TB, f func()) {
	tb.Helper()
	must(tb, ns.Do(func() error { f(); return nil }), "run in namespace")
}

// Start starts cmd in the namespace.
func (ns *Namespace) Start(cmd *exec.Cmd) error {
	return ns.Do(cmd.Start)
}

// Exec runs a program in the namespace to its end and returns what it printed.
func (ns *Namespace) Exec(tb TB, name string, args ...string) string {
	tb.Helper()
	out, err := ns.TryExec(name, args...)
	must(tb, err, "%s %s", name, strings.Join(args, " "))
	return out
}

// TryExec is Exec for programs that may fail; the error carries what the program printed.
func (ns *Namespace) TryExec(name string, args ...string) (string, error) {
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// Netlink opens a netlink handle in the namespace. It closes with the test.
func (ns *Namespace) Netlink(tb TB) *netlink.Handle {
	tb.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.FD()))
	must(tb, err, "open netlink")
	tb.Cleanup(h.Close)
	return h
}

// with calls f with a netlink handle and the link of that name.
func (ns *Namespace) with(tb TB, name string, f func(*netlink.Handle, netlink.Link) error) {
	tb.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.FD()))
	must(tb, err, "open netlink")
	defer h.Close()
	link, err := h.LinkByName(name)
	must(tb, err, "link %s", name)
	must(tb, f(h, link), "link %s", name)
}

// Up sets a link up.
func (ns *Namespace) Up(tb TB, name string) {
	tb.Helper()
	ns.with(tb, name, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetUp(l) })
}

// Down sets a link down.
func (ns *Namespace) Down(tb TB, name string) {
	tb.Helper()
	ns.with(tb, name, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) })
}

// MTU sets a link's MTU.
func (ns *Namespace) MTU(tb TB, name string, mtu int) {
	tb.Helper()
	ns.with(tb, name, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, mtu) })
}

// Addr gives a link an address such as 10.0.0.1/24, usable at once: without
// duplicate address detection, and with the solicited-node group joined if the
// link is up, which the kernel does a moment later.
func (ns *Namespace) Addr(tb TB, name, address string) {
	tb.Helper()
	ns.with(tb, name, func(h *netlink.Handle, l netlink.Link) error {
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(l, addr); err != nil {
			return err
		}
		if ip, up := netip.MustParsePrefix(address).Addr(), net.FlagUp&l.Attrs().Flags != 0; ip.Is6() && up && name != "lo" {
			return Poll(2*time.Second, func() error { return ns.joined(name, ip) })
		}
		return nil
	})
}

// joined returns an error unless a link has joined an address's solicited-node group.
func (ns *Namespace) joined(name string, ip netip.Addr) error {
	var groups []byte
	err := ns.Do(func() (err error) {
		groups, err = os.ReadFile("/proc/thread-self/net/igmp6")
		return err
	})
	if err != nil {
		return err
	}
	b := ip.As16()
	group := fmt.Sprintf("ff0200000000000000000001ff%x", b[13:])
	for line := range strings.Lines(string(groups)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == name && f[2] == group {
			return nil
		}
	}
	return fmt.Errorf("%s hasn't joined the solicited-node group of %s", name, ip)
}

// Route routes a prefix, or "default" in the gateway's family, over a link. An invalid gateway means on-link.
func (ns *Namespace) Route(tb TB, prefix string, gateway netip.Addr, name string) {
	tb.Helper()
	ns.with(tb, name, func(h *netlink.Handle, l netlink.Link) error {
		if prefix == "default" {
			prefix = "0.0.0.0/0"
			if gateway.Is6() {
				prefix = "::/0"
			}
		}
		dst, err := netlink.ParseIPNet(prefix)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst}
		if gateway.IsValid() {
			route.Gw = gateway.AsSlice()
		}
		return h.RouteAdd(route)
	})
}

// MAC returns a link's hardware address.
func (ns *Namespace) MAC(tb TB, name string) (mac [6]byte) {
	tb.Helper()
	ns.with(tb, name, func(_ *netlink.Handle, l netlink.Link) error {
		copy(mac[:], l.Attrs().HardwareAddr)
		return nil
	})
	return mac
}

// Index returns a link's interface index.
func (ns *Namespace) Index(tb TB, name string) (index int) {
	tb.Helper()
	ns.with(tb, name, func(_ *netlink.Handle, l netlink.Link) error {
		index = l.Attrs().Index
		return nil
	})
	return index
}

// Sysctl writes a sysctl of the namespace, named with slashes: net/ipv4/ip_forward.
func (ns *Namespace) Sysctl(tb TB, key, value string) {
	tb.Helper()
	err := ns.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) })
	must(tb, err, "sysctl %s", key)
}
