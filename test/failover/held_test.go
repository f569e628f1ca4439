// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// connectionsHeld is how many connections of each client and family outlive a move.
const connectionsHeld = 12

// held is a connection that is there before a move.
type held struct {
	name string
	conn net.Conn
}

// hold opens connections to a Service from both clients.
func (l *Lab) hold(t *testing.T, s Service) (list []held) {
	t.Helper()
	for name, ns := range map[string]*netlab.Namespace{"client": l.client, "routed client": l.far} {
		for _, addr := range s.Addrs() {
			for range connectionsHeld {
				var conn net.Conn
				to := netip.AddrPortFrom(addr, uint16(s.Port)).String()
				err := ns.Do(func() (err error) {
					conn, err = net.DialTimeout("tcp", to, 3*time.Second)
					return err
				})
				if err != nil {
					t.Fatalf("%s to %s: %v", name, to, err)
				}
				t.Cleanup(func() { conn.Close() })
				list = append(list, held{name + " to " + to, conn})
			}
		}
	}
	return list
}

// server is the node whose pod has the other end of a connection.
func (l *Lab) server(t *testing.T, h held) string {
	for _, m := range l.machines {
		for _, p := range m.Pods {
			plain := strings.NewReplacer("[::ffff:", "", "]", "", "[", "")
			if slices.Contains(strings.Fields(plain.Replace(p.Net().Exec(t, "ss", "-Htn"))), plain.Replace(h.conn.LocalAddr().String())) {
				return m.Name
			}
		}
	}
	return "no node"
}

// speak sends a line and reads it back.
func (h held) speak() error {
	if err := h.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	b := []byte("still there\n")
	if _, err := h.conn.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(h.conn, b)
	return err
}

// moved checks that connections to a Service outlive the drain of its node, and
// the return.
func moved(t *testing.T, l *Lab, i int) {
	t.Helper()
	l.waitHome(i, homecoming)
	s, m := l.Services[i], l.machines[i]
	connections := l.hold(t, s)
	judge := func(when string) {
		t.Helper()
		var said []string
		for _, h := range connections {
			if err := h.speak(); err != nil {
				said = append(said, fmt.Sprintf("%s served on %s: %v", h.name, l.server(t, h), err))
			}
		}
		if len(said) > 0 {
			t.Errorf("connections broken %s:\n%s", when, strings.Join(said, "\n"))
		}
	}
	judge("before anything moved")
	heal := drain(l, m)
	var now []string
	netlab.WaitFor(t, patience, "the move", func() error {
		now = nil
		for _, addr := range s.Addrs() {
			by := l.Observer.Answering(addr)
			if by == m.Name || l.machine(by) == nil {
				return fmt.Errorf("%s is answered by %s", addr, by)
			}
			now = append(now, fmt.Sprintf("%s to %s", addr, by))
		}
		return nil
	})
	judge(fmt.Sprintf("by the drain of %s (%s)", m.Name, strings.Join(now, ", ")))
	heal()
	l.waitHome(i, homecoming)
	judge("by the return of " + m.Name)
}
