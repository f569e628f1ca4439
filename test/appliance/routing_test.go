// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// TestRoutingModes changes how pods of other nodes are reached, on nodes that run,
// one after the other: the pods stay, what is between them goes the way that was
// chosen, and connections between the nodes go on.
func TestRoutingModes(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		a := raise(t)
		web, _ := a.shop(t)
		held := a.holdAcross(t, web)
		for _, mode := range []struct {
			name, route string // as the kernel has it on the first node
			tunnel      bool
		}{
			{"auto", "10.244.4.0/22 via 172.31.0.11 dev eth0", false},
			{"vxlan", "10.244.4.0/22 dev pb-vxlan scope link src 172.31.0.10 mtu 1450", true},
			{"native", "10.244.4.0/22 via 172.31.0.11 dev eth0", false},
			{"vxlan", "fd00:10:244:1::/64 dev pb-vxlan src fd00:31::10 metric 1024 mtu 1450", true},
			{"auto", "fd00:10:244:1::/64 via fd00:31::11 dev eth0", false},
		} {
			for _, n := range a.Nodes {
				a.configure(t, n, "routing: {mode: "+mode.name+"}\n")
				<-time.After(between)
			}
			for _, n := range a.Nodes {
				netlab.WaitFor(t, 10*time.Second, mode.name+" on "+n.Name, func() error {
					got := n.Net.Exec(t, "sh", "-c", "ip route show proto 80; ip -6 route show proto 80")
					if n == a.Nodes[0] && !strings.Contains(got, mode.route) || strings.Contains(got, "dev pb-vxlan") != mode.tunnel {
						return fmt.Errorf("routes: %s, want %s", got, mode.route)
					}
					return nil
				})
			}
			capture := netlab.NewCapture(t, a.Nodes[0].Net, "eth0")
			for _, to := range []netip.Addr{web[1].Addr, web[1].Addr6} {
				netlab.WaitFor(t, 10*time.Second, fmt.Sprintf("%s: bulk to %s", mode.name, to), func() error {
					return web[0].Net().Do(func() error { return bulk(netip.AddrPortFrom(to, ServerPort)) })
				})
			}
			// What is held keeps the way that it began.
			tunnelled := capture.Count(func(f netlab.Frame) bool { return isTunnel(f.Data) && len(f.Data) > 500 })
			if (tunnelled > 0) != mode.tunnel {
				t.Errorf("%s: %d packets of the tunnel", mode.name, tunnelled)
			}
			longest := 0
			for _, f := range capture.Frames() {
				longest = max(longest, len(f.Data))
			}
			t.Logf("%s: %d frames by the tunnel, of %d; the longest of %d bytes", mode.name, tunnelled, len(capture.Frames()), longest)
		}
		for _, h := range held {
			gap, err := h.End()
			t.Logf("%s: longest silence %v", h.What, gap.Round(time.Millisecond))
			if err != nil || gap > silence {
				t.Errorf("%s: silent for %v, %v", h.What, gap, err)
			}
		}
	})
}

const (
	// between is how long one node is ahead of the other: a rolling update's time.
	between = time.Second
	// silence is how long a connection may rest: TCP sends again what one lost
	// packet held after 0.2 s, two after 0.6 s.
	silence = time.Second
)

// holdAcross holds connections between the nodes, of pods and of the Service's.
func (a *Appliance) holdAcross(t *testing.T, web [2]*site.Pod) (held []*Held) {
	for _, to := range []netip.Addr{web[1].Addr, web[1].Addr6} {
		held = append(held, Hold(t, "pod to pod "+to.String(), web[0].Net(), netip.AddrPortFrom(to, ServerPort)))
	}
	for i := range 6 { // half of them to the other node
		to := netip.MustParseAddrPort([]string{"192.168.50.210:8080", "[fd00:50::210]:8080"}[i%2])
		held = append(held, Hold(t, fmt.Sprintf("outside to %s, %d", to, i), a.Outside, to))
	}
	return held
}

// configure changes a node's settings and starts its agent anew.
func (a *Appliance) configure(t *testing.T, n *site.Node, more string) {
	t.Helper()
	path := n.Path("/etc/patchbay/config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	base, _, _ := strings.Cut(string(text), "\nrouting:")
	a.write(path, strings.TrimRight(base, "\n")+"\n"+more)
	_ = n.Agent().Signal(syscall.SIGTERM)
	_ = n.Agent().Wait()
	n.StartAgent()
}

// bulk sends a megabyte to an echo server and wants it back.
func bulk(to netip.AddrPort) error {
	conn, err := net.DialTimeout("tcp", to.String(), patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if _, echo, _ := bytes.Cut(got, []byte("\n")); !bytes.Equal(echo, sent) {
		return fmt.Errorf("%d of %d bytes came back", len(echo), len(sent))
	}
	return nil
}

// isTunnel tells whether a frame is of the tunnel, over either family.
func isTunnel(frame []byte) bool {
	switch {
	case len(frame) < 62:
		return false
	case bytes.Equal(frame[12:14], []byte{8, 0}):
		return frame[23] == 17 && bytes.Equal(frame[36:38], []byte{0x12, 0xb5})
	case bytes.Equal(frame[12:14], []byte{0x86, 0xdd}):
		return frame[20] == 17 && bytes.Equal(frame[56:58], []byte{0x12, 0xb5})
	}
	return false
}
