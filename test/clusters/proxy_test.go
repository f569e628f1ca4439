// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// proxy is a router that answers for every address but those of the hosts that
// it knows (proxy ARP, NDP proxy).
func proxy(t *testing.T, ns *netlab.Namespace, knows func(netip.Addr) bool) {
	t.Helper()
	mac := ns.MAC(t, "eth0")
	for _, protocol := range []int{frame.EtherARP, frame.EtherIPv6} {
		var conn *packet.Conn
		err := ns.Do(func() error {
			nic, err := net.InterfaceByName("eth0")
			if err == nil {
				conn, err = packet.Listen(nic, packet.Raw, protocol, nil)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		t.Cleanup(func() { _ = conn.Close(); <-done })
		go func() {
			defer close(done)
			b := make([]byte, 2048)
			for {
				n, _, err := conn.ReadFrom(b)
				if err != nil {
					return
				}
				if target, ok := asked(b[:n]); ok && [6]byte(b[6:12]) != mac && !knows(target) {
					answer := frame.Announcements(target, mac)[0]
					if target.Is4() {
						from, _ := netip.AddrFromSlice(b[28:32])
						answer = frame.ARP{Op: frame.ARPReply, SenderMAC: mac, Sender: target, TargetMAC: [6]byte(b[6:12]), Target: from}.Frame([6]byte(b[6:12]))
					}
					_, _ = conn.WriteTo(answer, &packet.Addr{HardwareAddr: answer[:6]})
				}
			}
		}()
	}
}

// asked is the address that a frame asks for.
func asked(b []byte) (netip.Addr, bool) {
	switch {
	case len(b) >= 42 && binary.BigEndian.Uint16(b[12:]) == frame.EtherARP && binary.BigEndian.Uint16(b[20:]) == frame.ARPRequest:
		return netip.AddrFromSlice(b[38:42])
	case len(b) >= 78 && binary.BigEndian.Uint16(b[12:]) == frame.EtherIPv6 && b[20] == frame.ICMPv6 && b[54] == frame.NeighborSolicitation:
		return netip.AddrFromSlice(b[62:78])
	}
	return netip.Addr{}, false
}

// TestProxyRouter: beside a router that answers for everything all Services get
// their addresses, none of which is found to be in use, and a node takes over
// what another one had.
func TestProxyRouter(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		bin := t.TempDir()
		site.Build(t, bin)
		external, router := netlab.NewSwitch(t), netlab.New(t)
		external.Join(t, router, "eth0")
		proxy(t, router, func(addr netip.Addr) bool {
			host, bits := netip.MustParseAddr("192.168.50.99"), 24 // it and those below are machines
			if addr.Is6() {
				bits = 64
				host = netip.MustParseAddr("fd00:50::ff")
			}
			return addr.IsLinkLocalUnicast() || netip.PrefixFrom(host, bits).Masked().Contains(addr) && !host.Less(addr)
		})
		c := raise(t, bin, "only", 1, external)
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(c.tail())
			}
		})
		for _, n := range c.Nodes {
			n.WaitReady()
		}
		c.start()
		netlab.WaitFor(t, patience, "addresses for all Services", func() error {
			_, lacking, conflicted := c.look(t)
			if conflicted > 0 {
				t.Fatalf("%d addresses are taken to be in use", conflicted)
			}
			if len(lacking) > 0 {
				return fmt.Errorf("without: %v", lacking)
			}
			return nil
		})
		logs, said := "", 0
		for _, n := range c.Nodes {
			text, err := os.ReadFile(filepath.Join(c.Logs(), n.Name+".log"))
			if err != nil {
				t.Fatal(err)
			}
			logs += string(text)
		}
		if said = strings.Count(logs, "proxy ARP), which is no conflict"); said < 2*services {
			t.Errorf("want it said for %d addresses, got %d", 2*services, said)
		}
		c.Nodes[1].Kill()
		netlab.WaitFor(t, 30*time.Second, "all are announced by the other node", func() error {
			held := 0
			c.read(t, func(obj source.Object) {
				if state, ok := obj.(*v1alpha1.NodeNetworkState); ok && state.Name == c.Nodes[0].Name {
					held = len(state.Status.Announcements)
				}
			}, source.KindNodeNetworkState)
			if held < 2*services {
				return fmt.Errorf("%d are", held)
			}
			return nil
		})
	})
}
