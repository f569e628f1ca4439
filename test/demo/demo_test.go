// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

func TestShares(t *testing.T) {
	results := []served{{pod: "a"}, {pod: "a"}, {pod: "b"}, {pod: "c"}}
	got := phase{from: 1, to: 3}.shares(results)
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 1}, got); diff != "" {
		t.Errorf("shares (-want +got):\n%s", diff)
	}
}

func TestFrontendKey(t *testing.T) {
	if got, want := frontendKey(netip.MustParseAddr("192.168.50.200")), "00000000000000000000ffffc0a832c800500601"; got != want {
		t.Errorf("key: got %s, want %s", got, want)
	}
}

func TestReplies(t *testing.T) {
	netlab.Require(t)
	a, b := netlab.New(t), netlab.New(t)
	netlab.Wire(t, a, "eth0", b, "eth0")
	a.Addr(t, "eth0", "10.0.0.1/24")
	b.Addr(t, "eth0", "10.0.0.2/24")
	capture := netlab.NewCapture(t, b, "eth0")
	err := b.Do(func() error {
		l, err := net.Listen("tcp", "10.0.0.2:80")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := site.Answers(a, "http://10.0.0.2/"); err == nil {
			t.Fatal("nobody answers here")
		}
	}
	server, client := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")
	netlab.WaitFor(t, 2*time.Second, "captured replies", func() error {
		if n := len(replies(capture, server, true)); n != 3 {
			return fmt.Errorf("of %d connections", n)
		}
		return nil
	})
	if n := len(replies(capture, server, false)) + len(replies(capture, client, true)); n != 0 {
		t.Errorf("the wrong way or from the client: %d connections", n)
	}
}

func TestSideBySide(t *testing.T) {
	got := sideBySide([][]string{{"a", "pod", "end"}, {"b", "end"}})
	want := []string{"a" + strings.Repeat(" ", column-1) + "b", "pod", "end" + strings.Repeat(" ", column-3) + "end"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
