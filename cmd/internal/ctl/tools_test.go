// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestTrace(t *testing.T) {
	h := handler()
	h[agentapi.OpTrace] = agentapi.Do(func(_ context.Context, r agentapi.TraceRequest) (agentapi.Trace, error) {
		end := agentapi.TraceEnd{Kind: "wire", Text: "leaves by eth0, to 10.0.0.2", Next: "patchbayctl trace …"}
		if r.MAC != "" {
			end = agentapi.TraceEnd{Kind: "dropped", Reason: "pod-mac", Text: "dropped: not its own"}
		}
		return agentapi.Trace{Packet: r.From + " to " + r.To, Notes: []string{"a note"},
			Socket: &agentapi.TraceSocket{Text: "connect() goes to 10.244.1.5:8080", Balanced: true, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.244.1.5:8080")}},
			There: agentapi.TraceWalk{End: end, Hops: []agentapi.TraceHop{{Program: "tc_pod_in", Device: "pb1", Packet: "TCP", Steps: []agentapi.TraceStep{
				{Topic: "source", Text: "its own"}, {Topic: "translation", Text: "a becomes b"}}}}},
			Back: &agentapi.TraceWalk{End: agentapi.TraceEnd{Kind: "pod", Text: "delivered"}},
		}, nil
	})
	socket := serve(t, h)
	got, _, code := call(t, "trace", "default/web-1", "10.96.0.10:53", "--proto", "udp", "--socket", socket)
	want := `socket      connect() goes to 10.244.1.5:8080
packet      default/web-1 to 10.96.0.10:53
note        a note

tc_pod_in at pb1: TCP
  source       its own
  translation  a becomes b

→ leaves by eth0, to 10.0.0.2
  goes on there: patchbayctl trace …

and its answer

→ delivered
`
	if diff := cmp.Diff(want, got); code != exitOK || diff != "" {
		t.Errorf("exit %d (-want +got):\n%s", code, diff)
	}
	h[agentapi.OpTrace] = agentapi.Do(func(_ context.Context, r agentapi.TraceRequest) (agentapi.Trace, error) {
		away := agentapi.Trace{There: agentapi.TraceWalk{End: agentapi.TraceEnd{Kind: "dropped", Text: "dropped: this node has no such pod"}}}
		return agentapi.Trace{Packet: fmt.Sprintf("%x from %q", r.Frame, r.From), There: agentapi.TraceWalk{End: agentapi.TraceEnd{Kind: "wire", Text: "leaves by eth0", Next: "patchbayctl trace …", Node: "b", There: &away}}}, nil
	})
	got, _, code = call(t, "trace", "--frame", "0102", "--socket", serve(t, h))
	want = `packet      0102 from ""

→ leaves by eth0

on node b

→ dropped: this node has no such pod
`
	if diff := cmp.Diff(want, got); code != exitError || diff != "" {
		t.Errorf("exit %d (-want +got):\n%s", code, diff)
	}
	if _, _, code := call(t, "trace", "a", "b:1", "--mac", "02:00:00:00:00:01", "--socket", socket, "-o", "json"); code != exitError {
		t.Errorf("dropped: exit %d, want %d", code, exitError)
	}
	for _, args := range [][]string{{"trace", "a"}, {"trace", "a", "b:1", "--tunnel", "x"}, {"trace", "--frame", "xyz"}, {"trace", "a", "b:1", "--frame", "01"}, {"trace", "a", "b:1", "-o", "csv"}} {
		if _, _, code := call(t, append(args, "--socket", socket)...); code != exitUsage {
			t.Errorf("%v: exit %d, want %d", args, code, exitUsage)
		}
	}
}

// TestCapture has a dropped packet in the file, and the device that it came by.
func TestCapture(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		self := netlab.Open(t, "/proc/self/ns/net")
		netlab.Wire(t, self, "eth0", netlab.New(t), "eth0")
		h := handler()
		h[agentapi.OpNICs] = answer([]agentapi.NIC{{Name: "eth0", Index: self.Index(t, "eth0"), Role: "external"}})
		h[agentapi.OpPods] = answer([]agentapi.Pod(nil))
		h[agentapi.OpLost] = agentapi.Do(func(_ context.Context, r agentapi.LostRequest) ([]agentapi.LostPacket, error) {
			if r.Wait == 0 {
				return nil, nil
			}
			return []agentapi.LostPacket{{Time: time.Now(), Reason: "policy", Program: "tc_uplink_in", Link: self.Index(t, "eth0"), Length: 64, Data: make([]byte, 64)}}, nil
		})
		file := filepath.Join(t.TempDir(), "x.pcapng")
		_, stderr, code := call(t, "capture", "eth0", "--only-drops", "--count", "2", "--file", file, "--socket", serve(t, h))
		text, err := os.ReadFile(file)
		if err != nil || code != exitOK {
			t.Fatalf("exit %d, %v: %s", code, err, stderr)
		}
		r, err := pcapgo.NewNgReader(bytes.NewReader(text), pcapgo.DefaultNgReaderOptions)
		if err != nil {
			t.Fatal(err)
		}
		_, _, options, err := r.ReadPacketDataWithOptions()
		if err != nil || len(options.Comments) != 1 || options.Comments[0] != "dropped by tc_uplink_in: policy; its sender was told" && options.Comments[0] != "dropped by tc_uplink_in: policy" {
			t.Errorf("comments %q, %v", options.Comments, err)
		}
		if _, _, code := call(t, "capture", "eth7"); code != exitError {
			t.Errorf("no such device: exit %d", code)
		}
		if _, _, code := call(t, "capture", "--filter", "nonsense"); code != exitUsage {
			t.Errorf("wrong filter: exit %d", code)
		}
	})
}
