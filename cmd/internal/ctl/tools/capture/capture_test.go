// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/packet"
)

var (
	macA, macB   = packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}
	addrA, addrB = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	tcp          = packet.Build(packet.Eth{Src: macA, Dst: macB}, packet.IPv4{Src: addrA, Dst: addrB}, packet.TCP{Src: 1000, Dst: 80, Flags: packet.SYN})
	udp          = packet.Build(packet.Eth{Src: macA, Dst: macB}, packet.IPv4{Src: addrA, Dst: addrB}, packet.UDP{Src: 1000, Dst: 53}, packet.Payload("question"))
	arp          = packet.Build(packet.Eth{Src: macA, Dst: macB}, packet.ARP{Op: packet.ARPRequest, SenderMAC: macA, SenderIP: addrA, TargetIP: addrB})
	v6           = packet.Build(packet.Eth{Src: macA, Dst: macB}, packet.IPv6{Src: netip.MustParseAddr("fd00::1"), Dst: netip.MustParseAddr("fd00::2")}, packet.ICMPv6{Type: 128})
)

func TestFilter(t *testing.T) {
	all := [][]byte{tcp, udp, arp, v6}
	tests := []struct {
		filter string
		want   []int
	}{
		{"", []int{0, 1, 2, 3}},
		{"tcp", []int{0}},
		{"not tcp", []int{1, 2, 3}},
		{"host 192.0.2.2", []int{0, 1, 2}},
		{"host 192.0.2.2 and not arp", []int{0, 1}},
		{"host 192.0.2.2 port 53", []int{1}},
		{"net fd00::/64", []int{3}},
		{"icmp", []int{3}},
		{"ip6", []int{3}},
		{"ip and udp", []int{1}},
	}
	for _, test := range tests {
		f, err := ParseFilter(test.filter)
		if err != nil {
			t.Errorf("%q: %v", test.filter, err)
			continue
		}
		var got []int
		for i, frame := range all {
			if f.Match(frame) {
				got = append(got, i)
			}
		}
		if len(got) != len(test.want) || len(got) > 0 && got[0] != test.want[0] {
			t.Errorf("%q: got %v, want %v", test.filter, got, test.want)
		}
	}
	for _, bad := range []string{"host", "host x", "port 70000", "nonsense", "not"} {
		if _, err := ParseFilter(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("host 192.0.2.1 and not port 80", tcp)
	f.Fuzz(func(_ *testing.T, text string, frame []byte) {
		if filter, err := ParseFilter(text); err == nil {
			filter.Match(frame)
		}
	})
}

// read decodes a file.
func read(t *testing.T, file []byte) (data [][]byte, comments []string, devices []int) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, info, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return data, comments, devices
		}
		if err != nil {
			t.Fatal(err)
		}
		data, devices = append(data, b), append(devices, info.InterfaceIndex)
		comments = append(comments, strings.Join(options.Comments, ";"))
		if time.Since(info.Timestamp).Abs() > time.Minute {
			t.Errorf("time of a packet: %v", info.Timestamp)
		}
	}
}

func TestCapture(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		self, other := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, self, "eth0", other, "eth0")
		netlab.Wire(t, self, "eth1", other, "eth1")
		devices := []Device{{Name: "eth0", Index: self.Index(t, "eth0")}, {Name: "eth1", Index: self.Index(t, "eth1"), About: "pod default/web"}}
		filter, err := ParseFilter("ip and host 192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		lost := []agentapi.LostPacket{{Time: time.Now(), Reason: "pod-source", Program: "tc_pod_in", Link: devices[1].Index, Length: 2000, Data: udp}}
		o := Options{Devices: devices, Filter: filter, Count: 3, Duration: 10 * time.Second, Lost: func(ctx context.Context, _ time.Duration) ([]agentapi.LostPacket, error) {
			send(t, other, "eth0", v6)
			send(t, other, "eth0", tcp)
			send(t, self, "eth1", udp)
			<-time.After(100 * time.Millisecond) // as the agent waits
			defer func() { lost = nil }()
			return lost, ctx.Err()
		}}
		var file bytes.Buffer
		summary, err := Run(t.Context(), o, &file)
		if err != nil || summary.Packets != 3 || summary.Bytes != int64(file.Len()) {
			t.Fatalf("got %+v, %v, and %d bytes", summary, err, file.Len())
		}
		data, comments, on := read(t, file.Bytes())
		for i, b := range data {
			want := tcp
			if on[i] == 1 {
				want = udp
			}
			if !bytes.Equal(b, want) {
				t.Errorf("packet %d on %s: %s", i, devices[on[i]].Name, packet.String(b))
			}
		}
		if summary.Dropped > 0 && !strings.Contains(strings.Join(comments, ""), "dropped by tc_pod_in: pod-source") {
			t.Errorf("comments: %q", comments)
		}
	})
}

// Other programs read what is written.
func TestFileIsReadable(t *testing.T) {
	var file bytes.Buffer
	w, err := newWriter(&file, Options{Devices: []Device{{Name: "eth0", Index: 1}}, Snap: 60, Size: 400})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		err = w.write(seen{time: time.Unix(1, 0), length: 90, data: udp, comment: "dropped by tc_uplink_in: no-service"})
	}
	if !errors.Is(err, errEnough) || file.Len() > 400 || n < 2 {
		t.Errorf("%d packets, %d bytes, %v", n, file.Len(), err)
	}
	if _, comments, _ := read2(t, file.Bytes()); comments == 0 {
		t.Error("no comments")
	}
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("no tcpdump to read it with")
	}
	cmd := exec.Command("tcpdump", "-n", "-r", "-")
	cmd.Stdin = &file
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "192.0.2.1.1000 > 192.0.2.2.53") {
		t.Errorf("tcpdump: %v: %s", err, out)
	}
}

// read2 counts packets and comments without a look at the time.
func read2(t *testing.T, file []byte) (packets, comments int, err error) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		return 0, 0, err
	}
	for {
		_, _, options, err := r.ReadPacketDataWithOptions()
		if err != nil {
			return packets, comments, err
		}
		packets++
		comments += len(options.Comments)
	}
}

func send(t *testing.T, ns *netlab.Namespace, name string, frame []byte) {
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ns.Index(t, name), Halen: 6})
	})
	if err != nil {
		t.Error(err)
	}
}
