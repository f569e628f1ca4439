// SPDX-License-Identifier: Apache-2.0

package leg

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestGuard lets a leg speak for itself, and for nobody else.
func TestGuard(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		here.Addr(t, "pb-int", "fd00:31::1/64")
		l.Guard = true
		l.Addrs = append(l.Addrs, netip.MustParsePrefix("172.31.0.11/24"), netip.MustParsePrefix("fd00:31::11/64"))
		if _, err := Create(l); err != nil {
			t.Fatal(err)
		}
		for _, own := range []string{"172.31.0.10", "172.31.0.11", "fd00:31::10", "fd00:31::11"} {
			here.Exec(t, "ping", "-c1", "-W2", own)
		}
		inside.Exec(t, "ping", "-c1", "-W2", "172.31.0.1")
		inside.Exec(t, "ip", "addr", "add", "172.31.0.66/24", "dev", "eth0")
		inside.Exec(t, "ip", "addr", "add", "fd00:31::66/64", "dev", "eth0", "nodad")
		for _, foreign := range []string{"172.31.0.66", "fd00:31::66"} {
			if out, err := here.TryExec("ping", "-c1", "-W1", foreign); err == nil {
				t.Errorf("%s, which isn't the leg's, is answered for: %s", foreign, out)
			}
		}
		inside.Exec(t, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:66")
		if out, err := inside.TryExec("ping", "-c1", "-W1", "172.31.0.1"); err == nil {
			t.Errorf("another MAC address than the leg's is let through: %s", out)
		}
	})
}

// TestProbe refuses an address that another machine on the switch has.
func TestProbe(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, _, l := setup(t)
		other := netlab.New(t)
		taken := l
		taken.HostName, taken.Netns = HostName("other", "eth0"), other.FD()
		taken.Addrs, taken.Routes = []netip.Prefix{netip.MustParsePrefix("172.31.0.10/24")}, nil
		l.Probe = true
		if _, err := Create(taken); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(l); !errors.Is(err, ErrInUse) {
			t.Errorf("create with another's IPv4 address: %v, want ErrInUse", err)
		}
		other.Exec(t, "ip", "addr", "del", "172.31.0.10/24", "dev", "eth0")
		other.Exec(t, "ip", "addr", "add", "fd00:31::10/64", "dev", "eth0", "nodad")
		if _, err := Create(l); !errors.Is(err, ErrInUse) {
			t.Errorf("create with another's IPv6 address: %v, want ErrInUse", err)
		}
		other.Exec(t, "ip", "addr", "del", "fd00:31::10/64", "dev", "eth0")
		start := time.Now()
		if _, err := Create(l); err != nil {
			t.Errorf("create with free addresses: %v", err)
		}
		t.Logf("probed for %v", time.Since(start))
		here.Exec(t, "ip", "link", "show", l.HostName)
	})
}

// TestGuardProgram runs the guard over frames of a leg that is 172.31.0.10,
// fd00:31::10 and fe80::ff:fe00:9.
func TestGuardProgram(t *testing.T) {
	const (
		head  = "ffffffffffff 020000000009 "
		arp   = head + "0806 0001 0800 0604 0001 020000000009 "
		ip6   = head + "86dd 60000000 0020 "
		own   = "fd000031000000000000000000000010 "
		other = "fd000031000000000000000000000066 "
		local = "fe80000000000000000000fffe000009 "
		alien = "fe800000000000000000000000000001 "
		none  = "00000000000000000000000000000000 "
		all   = "ff020000000000000000000000000001 "
		rest  = "00 0000 00000000 " // of an ICMPv6 header
		mld   = "05020000 0100 "    // router alert
	)
	tests := []struct {
		name, frame string
		drop        bool
	}{
		{"IPv4", head + "0800 4500", false},
		{"ARP for another behind a second tag", head + "8100 0000 0806 0001 0800 0604 0001 020000000009 ac1f0042", true},
		{"IPv4 behind a second tag", head + "88a8 0000 0800 4500", true},
		{"another's MAC, high", "ffffffffffff 020000010009 0800 4500", true},
		{"another's MAC, low", "ffffffffffff 020000000008 0800 4500", true},
		{"ARP for itself", arp + "ac1f000a", false},
		{"ARP for nobody", arp + "00000000", false},
		{"ARP for another", arp + "ac1f0042", true},
		{"UDP by IPv6", ip6 + "11ff" + other + all + "0000", false},
		{"echo request", ip6 + "3aff" + own + all + "80" + rest, false},
		{"advertisement for itself", ip6 + "3aff" + own + all + "88" + rest + own, false},
		{"advertisement for another", ip6 + "3aff" + own + all + "88" + rest + other, true},
		{"advertisement for its link-local address", ip6 + "3aff" + own + all + "88" + rest + local, false},
		{"advertisement for another link-local address", ip6 + "3aff" + own + all + "88" + rest + alien, true},
		{"solicitation by itself", ip6 + "3aff" + own + all + "87" + rest + other, false},
		{"solicitation by nobody", ip6 + "3aff" + none + all + "87" + rest + other, false},
		{"solicitation by its link-local address", ip6 + "3aff" + local + all + "87" + rest + other, false},
		{"solicitation by another link-local address", ip6 + "3aff" + alien + all + "87" + rest + other, true},
		{"solicitation by another", ip6 + "3aff" + other + all + "87" + rest + own, true},
		{"router solicitation by another", ip6 + "3aff" + other + all + "85" + rest, true},
		{"router solicitation by its link-local address", ip6 + "3aff" + local + all + "85" + rest, false},
		{"router solicitation by another link-local address", ip6 + "3aff" + alien + all + "85" + rest, true},
		{"router advertisement", ip6 + "3aff" + local + all + "86" + rest, true},
		{"redirect", ip6 + "3aff" + local + all + "89" + rest, true},
		{"MLD report", ip6 + "0001" + local + all + "3a00" + mld + "83" + rest, false},
		{"MLD done", ip6 + "0001" + local + all + "3a00" + mld + "84" + rest, false},
		{"MLDv2 report", ip6 + "0001" + none + all + "3a00" + mld + "8f" + rest, false},
		{"MLD query", ip6 + "0001" + local + all + "3a00" + mld + "82" + rest, true},
		{"advertisement behind hop-by-hop", ip6 + "00ff" + own + all + "3a00" + mld + "88" + rest + other, true},
		{"advertisement behind long hop-by-hop", ip6 + "00ff" + own + all + "3a01" + mld + "8f" + rest + "88" + rest + other, true},
		{"UDP behind hop-by-hop", ip6 + "00ff" + own + all + "1100" + mld + "8f" + rest, true},
		{"advertisement behind options", ip6 + "3cff" + own + all + "3a00" + mld + "88" + rest + other, true},
		{"advertisement behind a routing header", ip6 + "2bff" + own + all + "3a00" + mld + "88" + rest + other, true},
		{"first fragment of UDP", ip6 + "2cff" + own + all + "1100 0001 00000001 0000", false},
		{"first fragment of an echo", ip6 + "2cff" + own + all + "3a00 0001 00000001 80" + rest, false},
		{"first fragment of an advertisement", ip6 + "2cff" + own + all + "3a00 0001 00000001 88" + rest + other, true},
		{"whole advertisement in a fragment", ip6 + "2cff" + own + all + "3a00 0000 00000001 88" + rest + other, true},
		{"first fragment of options", ip6 + "2cff" + own + all + "3c00 0001 00000001 3a00" + mld + "88" + rest, true},
		{"first fragment of hop-by-hop", ip6 + "2cff" + own + all + "0000 0001 00000001 3a00" + mld + "88" + rest, true},
		{"later fragment", ip6 + "2cff" + own + all + "3a00 0009 00000001 88" + rest + other, false},
	}
	many := []netip.Addr{netip.MustParseAddr("172.31.0.10"), netip.MustParseAddr("fd00:31::10"), linkLocal([6]byte{2, 0, 0, 0, 0, 9})}
	for i := range 60 { // more than a conditional jump reaches over
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}))
	}
	for _, addrs := range [][]netip.Addr{many[:3], many} {
		var program []bpf.Instruction
		for _, i := range guardProgram([6]byte{2, 0, 0, 0, 0, 9}, addrs) {
			program = append(program, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K}.Disassemble())
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range tests {
			frame, err := hex.DecodeString(strings.ReplaceAll(tt.frame, " ", ""))
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if got, err := vm.Run(frame); err != nil || got != 0 != tt.drop {
				t.Errorf("%s, %d addresses: result %d, %v, want drop %t", tt.name, len(addrs), got, err, tt.drop)
			}
		}
	}
}

// TestGuardTags: what the guard drops doesn't get through behind VLAN tags, which
// the receiver's kernel takes off.
func TestGuardTags(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		l.Guard = true
		if _, err := Create(l); err != nil {
			t.Fatal(err)
		}
		// 172.31.0.99 is-at the leg, by a gratuitous reply.
		const claim = "0806 0001 0800 0604 0002 020000000009 ac1f0063 020000000009 ac1f0063"
		for name, tags := range map[string]string{
			"none": "", "VLAN 0": "8100 0000 ", "VLAN 0 twice": "8100 0000 8100 0000 ", "VLAN 0, 802.1ad outside": "88a8 0000 8100 0000 ",
			"three": "8100 0000 8100 0000 8100 0000 ",
		} {
			here.Exec(t, "ip", "neigh", "replace", "172.31.0.99", "lladdr", "02:00:00:00:00:77", "nud", "stale", "dev", "pb-int")
			sendFrames(t, inside, tags+claim)
			inside.Exec(t, "ping", "-c2", "-i0.1", "-W2", "172.31.0.1") // it has come by then
			if out := here.Exec(t, "ip", "neigh", "show", "172.31.0.99"); strings.Contains(out, "02:00:00:00:00:09") {
				t.Errorf("tags %s: the claim got through: %s", name, out)
			}
		}
	})
}

// TestGuardVLAN: a leg sends nothing into another VLAN, nor by another link-local
// address than its own, which it does use.
func TestGuardVLAN(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, inside, l := setup(t)
		inside.Sysctl(t, "net/ipv6/conf/default/addr_gen_mode", "1") // none: the leg has its own all the same
		other := netlab.New(t)
		netlab.Wire(t, here, "pbother", other, "eth0")
		here.Exec(t, "ip", "link", "set", "pbother", "master", "pb-int")
		l.Guard = true
		if _, err := Create(l); err != nil {
			t.Fatal(err)
		}
		if out := inside.Exec(t, "ip", "-6", "addr", "show", "dev", "eth0"); !strings.Contains(out, linkLocal(l.MAC).String()+"/64") {
			t.Errorf("want the link-local address %s: %s", linkLocal(l.MAC), out)
		}
		const local = 0x88b5 // an EtherType for experiments
		var seen []byte
		other.Run(t, func() {
			nic, err := net.InterfaceByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			c, err := packet.Listen(nic, packet.Raw, local, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			sendFrames(t, inside, "8100 0005 88b5 0500", "8100 2000 88b5 2000", "88b5 0100")
			if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for buf := make([]byte, 1500); !slices.Contains(seen, 1); {
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					t.Fatal(err)
				}
				seen = append(seen, buf[:n][14])
			}
		})
		if slices.Contains(seen, 5) || !slices.Contains(seen, 0x20) {
			t.Errorf("frames %x came through, want those of no VLAN and of a priority", seen)
		}
	})
}

// sendFrames sends broadcasts by the leg's MAC address.
func sendFrames(t *testing.T, from *netlab.Namespace, frames ...string) {
	t.Helper()
	from.Run(t, func() {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		c, err := packet.Listen(nic, packet.Raw, 0x88b6, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for _, text := range frames {
			frame, err := hex.DecodeString(strings.ReplaceAll("ffffffffffff 020000000009 "+text, " ", ""))
			if err == nil {
				_, err = c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
}
