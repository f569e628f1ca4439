// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

// TestServeNobodyTwice: one datagram, sent in the name of a node's server, doesn't
// have two servers answer each other for ever.
func TestServeNobodyTwice(t *testing.T) {
	netlab.Require(t)
	a, b := netlab.New(t), netlab.New(t)
	netlab.Wire(t, a, "eth0", b, "eth0")
	a.Addr(t, "eth0", "172.31.0.1/24")
	b.Addr(t, "eth0", "172.31.0.2/24")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for _, ns := range []*netlab.Namespace{a, b} {
		go ns.Run(t, func() { ended <- answer(ctx, func(netip.Addr) bool { return true }) }) // on a thread in the namespace
	}
	defer func() { cancel(); <-ended; <-ended }()
	b.Exec(t, "ping", "-c1", "-W2", "172.31.0.1")
	capture := netlab.NewCapture(t, a, "eth0")
	datagrams := func() int {
		return capture.Count(func(f netlab.Frame) bool { return len(f.Data) >= 42 && f.Data[23] == unix.IPPROTO_UDP })
	}
	frame := packet.Build(packet.IPv4{Src: netip.MustParseAddr("172.31.0.2"), Dst: netip.MustParseAddr("172.31.0.1")},
		packet.UDP{Src: Port, Dst: Port}, packet.Payload(make([]byte, answerSize)))
	send := func() error {
		return b.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, frame, 0, &unix.SockaddrInet4{Addr: [4]byte{172, 31, 0, 1}})
		})
	}
	for _, ns := range []*netlab.Namespace{a, b} {
		netlab.WaitFor(t, 5*time.Second, "the server listens", func() error {
			if out := ns.Exec(t, "ss", "-lunH"); !strings.Contains(out, fmt.Sprint(":", Port)) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, 5*time.Second, "the datagram", func() error {
		if datagrams() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	b.Exec(t, "ping", "-c2", "-i0.1", "-W2", "172.31.0.1") // any answer has come by then
	if n := datagrams(); n != 1 {
		t.Errorf("%d datagrams on the wire after one", n)
	}
}
