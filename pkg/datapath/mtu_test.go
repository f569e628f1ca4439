// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestFullSize sends through the tunnel what fills the client's own MTU: TCP
// in bulk both ways, and datagrams that mustn't be fragmented.
func TestFullSize(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, true)
		l.setServices(t)
		for i, f := range families() {
			far := l.nodes[1].pods[0]
			t.Run(f.name+"/tcp", func(t *testing.T) {
				l.testBulk(t, l.client, net.JoinHostPort(f.loadBalancer, "80"), far.addrs[i].String())
				l.testBulk(t, l.nodes[0].pods[0].ns, net.JoinHostPort(far.addrs[i].String(), "8080"), far.addrs[i].String())
			})
			t.Run(f.name+"/udp", func(t *testing.T) {
				l.testDatagrams(t, l.client, net.JoinHostPort(f.loadBalancer, "80"), far.addrs[i].String(), i == 1)
				l.testDatagrams(t, l.nodes[0].pods[0].ns, net.JoinHostPort(far.addrs[i].String(), "8080"), far.addrs[i].String(), i == 1)
			})
		}
	})
}

// testBulk sends half a megabyte there and back until the far pod answered.
func (l *lab) testBulk(t *testing.T, from *netlab.Namespace, to, far string) {
	t.Helper()
	text := strings.Repeat("bulk", 1<<17)
	for range 40 {
		got, err := askFrom(from, "tcp", to, text)
		if err != nil {
			t.Fatalf("%s: %v; drops: %s", to, err, l.drops(t))
		}
		if got.pod == far {
			return
		}
	}
	t.Errorf("%s: pod %s didn't answer", to, far)
}

// testDatagrams sends a full-size datagram until one was too big for the
// tunnel, and wants the sender to know the tunnel's MTU then and to get through.
func (l *lab) testDatagrams(t *testing.T, from *netlab.Namespace, to, far string, v6 bool) {
	t.Helper()
	for range 40 {
		mtu, err := pathMTU(from, to, v6)
		if err != nil {
			t.Fatalf("%s: %v; drops: %s", to, err, l.drops(t))
		}
		if mtu == 1450 {
			return
		}
	}
	t.Errorf("%s: nobody was told the path's MTU; drops: %s", to, l.drops(t))
}

// pathMTU sends 1,500 bytes and returns the MTU that the sender knows after
// an answer or a refusal; after a refusal, what fits it must be answered.
func pathMTU(from *netlab.Namespace, to string, v6 bool) (mtu int, err error) {
	headers, level, discover, option := 28, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	if v6 {
		headers, level, discover, option = 48, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	}
	err = from.Do(func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		set := func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_DO) }
		if ctl := raw.Control(set); ctl != nil || err != nil {
			return errors.Join(ctl, err)
		}
		send := func(size int) error {
			if _, err := c.Write(make([]byte, size-headers)); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			_, err := c.Read(make([]byte, 4096))
			return err
		}
		err = send(1500)
		if ctl := raw.Control(func(fd uintptr) { mtu, _ = unix.GetsockoptInt(int(fd), level, option) }); ctl != nil {
			return ctl
		}
		if mtu == 1500 {
			return err
		}
		if !errors.Is(err, syscall.EMSGSIZE) {
			return fmt.Errorf("send 1,500 bytes with path MTU %d: %w", mtu, err)
		}
		if err := send(mtu - 100); err != nil {
			return fmt.Errorf("send %d bytes: %w", mtu-100, err)
		}
		return nil
	})
	return mtu, err
}
