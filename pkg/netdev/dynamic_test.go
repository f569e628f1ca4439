// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// dynamic is what Links says of an interface.
func dynamic(t *testing.T, name string) Dynamic {
	t.Helper()
	links, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(links, func(l Link) bool { return l.Named(name) })
	if i < 0 {
		t.Fatalf("no link %s in %+v", name, links)
	}
	return links[i].Dynamic
}

// A configuration is dynamic per family: by DHCP or by router advertisement.
// Link-local addresses never count.
func TestDynamic(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, router := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "eth0", router, "eth0")
		here.Exec(t, "ip", "link", "property", "add", "dev", "eth0", "altname", "Port3")
		here.Addr(t, "eth0", "192.168.1.1/24")
		here.Addr(t, "eth0", "fd00:1::1/64")
		for _, step := range []struct {
			what string
			do   []string // of ip
			want Dynamic
		}{
			{"static", []string{"link", "show"}, Dynamic{}},
			{"leased", []string{"addr", "add", "192.168.2.1/24", "dev", "eth0", "valid_lft", "60", "preferred_lft", "60"}, Dynamic{IPv4: true}},
			{"the lease is over", []string{"addr", "del", "192.168.2.1/24", "dev", "eth0"}, Dynamic{}},
			{"a client without lifetimes", []string{"route", "add", "10.0.0.0/8", "via", "192.168.1.9", "proto", "dhcp"}, Dynamic{IPv4: true}},
			{"that is gone", []string{"route", "del", "10.0.0.0/8"}, Dynamic{}},
			{"DHCPv6", []string{"addr", "add", "fd00:2::1/128", "dev", "eth0", "valid_lft", "60", "preferred_lft", "60"}, Dynamic{IPv6: true}},
			{"that is over", []string{"addr", "del", "fd00:2::1/128", "dev", "eth0"}, Dynamic{}},
		} {
			here.Exec(t, "ip", step.do...)
			if got := dynamic(t, "Port3"); got != step.want {
				t.Errorf("%s: got %+v, want %+v", step.what, got, step.want)
			}
		}
		here.Sysctl(t, "net/ipv6/conf/eth0/accept_ra", "2")
		netlab.WaitFor(t, 10*time.Second, "an address by router advertisement", func() error {
			if err := router.Do(advertise); err != nil {
				return err
			}
			if got := dynamic(t, "eth0"); got != (Dynamic{IPv6: true}) {
				return fmt.Errorf("got %+v", got)
			}
			return nil
		})
	})
}

// advertise sends one router advertisement of fd00:3::/64 out of eth0 (RFC 4861, 4.2).
func advertise() error {
	conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	})
	if err := errors.Join(err, set); err != nil {
		return err
	}
	advertisement := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	prefix := []byte{3, 4, 64, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0} // for ever
	prefix = append(prefix, net.ParseIP("fd00:3::")...)
	_, err = conn.WriteTo(append(advertisement, prefix...), &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "eth0"})
	return err
}
