// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
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

func TestRepliesOf(t *testing.T) {
	vip, client := netip.MustParseAddr("192.168.50.200"), netip.MustParseAddr(site.ClientAddress)
	reply := netlab.Frame{Outgoing: true, Data: packet.Build(packet.Eth{}, packet.IPv4{Src: vip, Dst: client}, packet.TCP{Src: 80, Dst: 40000})}
	request := netlab.Frame{Outgoing: true, Data: packet.Build(packet.Eth{}, packet.IPv4{Src: client, Dst: vip}, packet.TCP{Src: 40000, Dst: 80})}
	if !repliesOf(vip, true)(reply) || repliesOf(vip, false)(reply) || repliesOf(vip, true)(request) {
		t.Error("a reply, its direction or a request is taken for another")
	}
}

func TestSideBySide(t *testing.T) {
	got := sideBySide([][]string{{"a", "pod", "end"}, {"b", "end"}})
	want := []string{"a" + strings.Repeat(" ", column-1) + "b", "pod", "end" + strings.Repeat(" ", column-3) + "end"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
