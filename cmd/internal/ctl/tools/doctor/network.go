// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// roles looks for NICs whose roles contradict each other.
func (w *ward) roles() error {
	if w.noAgent != nil {
		return nil
	}
	internal := 0
	for _, n := range w.nics {
		if strings.Contains(n.Role, "internal") {
			internal++
		}
		said := slices.ContainsFunc(w.info.Problems, func(p agentapi.Problem) bool { return p.Text == n.Problem })
		if n.Problem != "" && !said {
			w.found(Warning, []string{"set nics[] in /etc/patchbay/config.yaml; patchbayctl nics -o wide shows the reasons"}, "%s: %s", n.Name, n.Problem)
		}
		for _, program := range n.Programs {
			if whose := maker(program); whose != "" {
				w.found(Error, []string{"tc filter show dev " + n.Name + " ingress", "tc qdisc del dev " + n.Name + " clsact, where all of it is " + whose + "'s"},
					"%s has a program of %s: %s", n.Name, whose, program)
			}
		}
		if n.Role != "ignored" && !n.Carrier {
			w.found(Warning, []string{"look at its cable and switch"}, "%s (%s) has no carrier", n.Name, n.Role)
		}
	}
	if internal == 0 && w.info.Role == "node" {
		w.found(Error, []string{"set nics[] in /etc/patchbay/config.yaml"}, "no NIC is internal: nodes can't reach each other's pods")
	}
	for i, a := range w.managed() {
		for _, b := range w.managed()[i+1:] {
			if p, ok := sameSubnet(a, b); ok {
				w.found(Error, []string{"give one of them another network, or the role ignored"}, "%s and %s are both in %s: answers may leave by the wrong one", a.Name, b.Name, p)
			}
		}
	}
	return nil
}

// sameSubnet finds a subnet that two NICs are both in.
func sameSubnet(a, b agentapi.NIC) (netip.Prefix, bool) {
	for _, p := range a.Addrs {
		for _, q := range b.Addrs {
			if p.Bits() < p.Addr().BitLen() && p.Masked() == q.Masked() {
				return p.Masked(), true
			}
		}
	}
	return netip.Prefix{}, false
}

// Sizes of what the tunnel adds to a packet over IPv4.
const tunnelHeaders = 50

// mtus looks for links that let less through than what is behind them sends.
func (w *ward) mtus() error {
	links, err := netdev.Links()
	if err != nil {
		return err
	}
	smallest, where := 0, ""
	for _, n := range w.managed() {
		if n.MTU > 0 && (smallest == 0 || n.MTU < smallest) {
			smallest, where = n.MTU, n.Name
		}
	}
	master := map[int]netdev.Link{}
	for _, l := range links {
		master[l.Index] = l
	}
	for _, l := range links {
		switch m, isPort := master[l.Master]; {
		case l.Name == "pb-vxlan" && smallest > 0 && l.MTU > smallest-tunnelHeaders:
			w.found(Error, []string{fmt.Sprintf("set routing.mtu to %d", smallest-tunnelHeaders)},
				"the tunnel's MTU %d doesn't fit through %s (%d less %d)", l.MTU, where, smallest, tunnelHeaders)
		case isPort && l.Master != 0 && m.Kind == "bridge" && l.MTU != m.MTU && !netdev.IsPodLink(l.Name):
			w.found(Warning, []string{fmt.Sprintf("ip link set %s mtu %d", l.Name, m.MTU)},
				"%s has MTU %d, its switch %s %d: larger frames are lost without a word", l.Name, l.MTU, m.Name, m.MTU)
		}
	}
	pods, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	for name, l := range pods {
		if smallest > 0 && l.MTU > smallest {
			w.found(Warning, []string{fmt.Sprintf("set routing.mtu to %d; pods made before keep theirs", smallest)},
				"the pod behind %s has MTU %d, and %s lets %d through", name, l.MTU, where, smallest)
		}
	}
	return nil
}

// ethtoolGetFlags is ETHTOOL_GFLAGS, and largeReceive ETH_FLAG_LRO.
const (
	ethtoolGetFlags = 0x25
	largeReceive    = 1 << 15
)

// offloads looks for what NICs do to packets that can't be forwarded then.
func (w *ward) offloads() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	features := w.Features
	if features == nil {
		features = func(nic string) (uint32, error) { return ethtoolFlags(fd, nic) }
	}
	for _, n := range w.managed() {
		flags, err := features(n.Name)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return fmt.Errorf("flags of %s: %w", n.Name, err)
		}
		if flags&largeReceive != 0 {
			w.found(Error, []string{"ethtool -K " + n.Name + " lro off"}, "%s merges packets that it receives (LRO)", n.Name)
		}
	}
	return nil
}

func ethtoolFlags(fd int, name string) (uint32, error) {
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{}
	value := struct{ command, data uint32 }{command: ethtoolGetFlags}
	copy(request.name[:len(request.name)-1], name)
	request.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

// Ours: of routes to pods, and of custom ones.
const routeProtocol, customProtocol = 80, 81

// ranges looks for addresses and routes of others in the pods' ranges, and for
// NICs whose networks overlap with them.
func (w *ward) ranges() error {
	links, err := netdev.Links()
	if err != nil {
		return err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
		for _, a := range l.Addrs {
			for _, pods := range w.podRanges() {
				switch {
				case netdev.IsPodLink(l.Name):
				case pods.Contains(a.Addr()):
					w.found(Error, []string{fmt.Sprintf("ip addr del %s dev %s", a, l.Name)}, "%s of %s is in the pod range %s", a.Addr(), l.Name, pods)
				case pods.Overlaps(a.Masked()):
					w.found(Error, []string{"give pods or the network another range"}, "the network %s of %s overlaps with the pod range %s", a.Masked(), l.Name, pods)
				}
			}
		}
	}
	pods, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	for name, l := range pods {
		names[l.Index] = name
	}
	return w.foreignRoutes(names)
}

func (w *ward) foreignRoutes(names map[int]string) error {
	routes, err := netdev.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteList(nil, netlink.FAMILY_ALL) //nolint:forbidigo // it is through Dump
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Protocol == routeProtocol || r.Protocol == customProtocol || netdev.IsPodLink(names[r.LinkIndex]) {
			continue
		}
		dst, err := netip.ParsePrefix(r.Dst.String())
		if err != nil || dst.Bits() == 0 {
			continue
		}
		inside := slices.IndexFunc(w.podRanges(), func(pods netip.Prefix) bool { return pods.Overlaps(dst) })
		if inside >= 0 {
			by := "by " + names[r.LinkIndex]
			remedy := fmt.Sprintf("ip route del %s dev %s", dst, names[r.LinkIndex])
			if kind := nowhere(r.Type); kind != "" {
				by, remedy = "to "+kind, fmt.Sprintf("ip route del %s %s proto %s", kind, dst, r.Protocol)
			}
			w.found(Error, []string{remedy}, "the route %s %s (protocol %s) isn't Patchbay's and covers pods of %s", dst, by, r.Protocol, w.podRanges()[inside])
		}
	}
	return nil
}

// nowhere names the types of routes that lead nowhere: a block of pods' addresses
// has such a one elsewhere.
func nowhere(kind int) string {
	return map[int]string{unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit"}[kind]
}
