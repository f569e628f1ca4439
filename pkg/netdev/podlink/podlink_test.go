// SPDX-License-Identifier: Apache-2.0

package podlink

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-net/patchbay/pkg/netns"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const hostName = "pb0123456789a"

// lab is a node and a pod.
type lab struct {
	node, pod *netlab.Namespace
	link      Link
}

func newLab(t testing.TB) *lab {
	t.Helper()
	netlab.Require(t)
	l := &lab{node: netlab.New(t), pod: netlab.New(t)}
	l.link = Link{HostName: hostName, IfName: "eth0", MTU: 1400, MAC: PodMAC(hostName), Netns: open(t, l.pod),
		Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00:244::7")}}
	l.node.Sysctl(t, "net/ipv4/conf/default/rp_filter", "2")
	l.node.Addr(t, "lo", "192.0.2.1/32")
	l.node.Addr(t, "lo", "fd00:1::1/128")
	netlab.WaitFor(t, 10*time.Second, "the node's own address", func() error {
		_, err := l.node.TryExec("ping", "-c1", "-W1", "fd00:1::1")
		return err
	})
	return l
}

func open(t testing.TB, ns *netlab.Namespace) *netns.Namespace {
	t.Helper()
	opened, err := netns.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return opened
}

func (l *lab) do(t testing.TB, f func() error) {
	t.Helper()
	if err := l.node.Do(f); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) create(t testing.TB) (index int) {
	t.Helper()
	l.do(t, func() (err error) { index, err = l.link.Create(); return err })
	return index
}

func TestCreate(t *testing.T) {
	l := newLab(t)
	index := l.create(t)
	if want := l.node.Index(t, hostName); index != want {
		t.Errorf("index = %d, want %d", index, want)
	}
	l.do(t, l.link.Check)
	for _, target := range []string{"10.244.0.7", "fd00:244::7"} {
		l.node.Exec(t, "ping", "-c1", "-W2", target)
	}
	for _, target := range []string{"192.0.2.1", "fd00:1::1"} {
		l.pod.Exec(t, "ping", "-c1", "-W2", target)
	}
	if out := l.pod.Exec(t, "ip", "-o", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("pod's end: %s, want mtu 1400", out)
	}
	if out := l.node.Exec(t, "cat", "/proc/sys/net/ipv4/conf/"+hostName+"/rp_filter"); strings.TrimSpace(out) != "0" {
		t.Errorf("rp_filter of the host end = %s, want 0", out)
	}
	if out := l.node.Exec(t, "ip", "-o", "addr", "show", "dev", hostName); out != "" {
		t.Errorf("addresses of the host end = %s, want none", out)
	}
	l.do(t, func() error {
		addrs, err := Addrs()
		if len(addrs) != 2 || addrs[l.link.Addrs[0]] != hostName || addrs[l.link.Addrs[1]] != hostName {
			t.Errorf("Addrs = %v, want both at %s", addrs, hostName)
		}
		return err
	})
}

// TestUsableAtOnce sends the first packet the moment that Create returns.
func TestUsableAtOnce(t *testing.T) {
	l := newLab(t)
	for range 20 {
		l.create(t)
		l.node.Exec(t, "ping", "-c1", "-W1", "fd00:244::7")
		l.do(t, func() error { return Remove(hostName) })
	}
}

func TestCreateAgain(t *testing.T) {
	l := newLab(t)
	first := l.create(t)
	l.link.Addrs = l.link.Addrs[:1]
	if second := l.create(t); second == first {
		t.Errorf("index = %d again, want a new link", second)
	}
	l.do(t, l.link.Check)
}

func TestCreateTaken(t *testing.T) {
	l := newLab(t)
	netlab.Wire(t, l.pod, "eth0", netlab.New(t), "other")
	err := l.node.Do(func() error { _, err := l.link.Create(); return err })
	if !errors.Is(err, ErrTaken) {
		t.Errorf("error = %v, want ErrTaken", err)
	}
	l.checkGone(t)
}

func TestCreateUndone(t *testing.T) {
	l := newLab(t)
	l.link.Addrs = append(l.link.Addrs, netip.MustParseAddr("ff02::1")) // no host may have a multicast address
	err := l.node.Do(func() error { _, err := l.link.Create(); return err })
	if err == nil || !strings.Contains(err.Error(), "ff02::1") {
		t.Errorf("error = %v, want one that names ff02::1", err)
	}
	l.checkGone(t)
}

func (l *lab) checkGone(t *testing.T) {
	t.Helper()
	l.do(t, func() error {
		if _, found, err := Index(hostName); found || err != nil {
			t.Errorf("host end: found %t, %v, want nothing left", found, err)
		}
		return nil
	})
}

func TestCheckFinds(t *testing.T) {
	tests := []struct {
		name string
		harm func(l *lab)
		want string
	}{
		{"address gone", func(l *lab) { l.pod.Exec(t, "ip", "addr", "del", "10.244.0.7/32", "dev", "eth0") }, "lacks address 10.244.0.7"},
		{"address added", func(l *lab) { l.pod.Exec(t, "ip", "addr", "add", "10.1.1.1/32", "dev", "eth0") }, "10.1.1.1"},
		{"default route gone", func(l *lab) { l.pod.Exec(t, "ip", "route", "del", "default") }, "0.0.0.0/0"},
		{"IPv6 default route gone", func(l *lab) { l.pod.Exec(t, "ip", "-6", "route", "del", "default") }, "::/0"},
		{"gateway's neighbour gone", func(l *lab) { l.pod.Exec(t, "ip", "neigh", "del", "169.254.1.1", "dev", "eth0") }, "169.254.1.1"},
		{"pod's end down", func(l *lab) { l.pod.Down(t, "eth0") }, "eth0 is down"},
		{"pod's MAC changed", func(l *lab) { l.pod.Exec(t, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:09") }, "02:00:00:00:00:09"},
		{"host's route gone", func(l *lab) { l.node.Exec(t, "ip", "route", "del", "10.244.0.7") }, "10.244.0.7/32"},
		{"host's neighbour gone", func(l *lab) { l.node.Exec(t, "ip", "neigh", "del", "fd00:244::7", "dev", hostName) }, "fd00:244::7"},
		{"host's end down", func(l *lab) { l.node.Down(t, hostName) }, hostName + " is down"},
		{"link gone", func(l *lab) { l.node.Exec(t, "ip", "link", "del", hostName) }, hostName},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			l.create(t)
			test.harm(l)
			if err := l.node.Do(l.link.Check); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check = %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	l := newLab(t)
	first := l.create(t)
	l.do(t, func() error { return Remove(hostName) })
	l.do(t, func() error { return Remove(hostName) })
	l.checkGone(t)
	second := l.create(t)
	l.do(t, func() error { return RemoveIndex(hostName, first) })
	l.do(t, l.link.Check)
	l.do(t, func() error { return RemoveIndex(hostName, second) })
	l.do(t, func() error { return RemoveIndex(hostName, second) })
	l.checkGone(t)
}

func TestAwaitRemoval(t *testing.T) {
	l := newLab(t)
	l.create(t)
	l.do(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := AwaitRemoval(ctx, hostName); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("AwaitRemoval of what stays = %v, want the deadline", err)
		}
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- l.node.Do(func() error { return Remove(hostName) }) }()
	l.do(t, func() error { return AwaitRemoval(t.Context(), hostName) })
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMACs(t *testing.T) {
	host, pod := HostMAC(hostName), PodMAC(hostName)
	if host == pod || host == HostMAC("pb0123456789b") {
		t.Errorf("MACs %x and %x are not the attachment's own", host, pod)
	}
	for _, mac := range [][6]byte{host, pod} {
		if mac[0]&3 != 2 {
			t.Errorf("MAC %x is not a locally administered unicast address", mac)
		}
	}
}

// BenchmarkLink times making, losing sight of, and removing an interface.
func BenchmarkLink(b *testing.B) {
	l := newLab(b)
	node, err := netlink.NewHandle()
	if err != nil {
		b.Fatal(err)
	}
	defer node.Close()
	var made, unseen, removed time.Duration
	for b.Loop() {
		start := time.Now()
		l.create(b)
		made += time.Since(start)
		start = time.Now()
		done := make(chan time.Duration, 1)
		go func() {
			_ = l.node.Do(func() error { return Remove(hostName) })
			done <- time.Since(start)
		}()
		l.do(b, func() error { return AwaitRemoval(b.Context(), hostName) })
		unseen += time.Since(start)
		removed += <-done
	}
	n := time.Duration(b.N)
	b.ReportMetric(float64((made / n).Microseconds()), "µs/create")
	b.ReportMetric(float64((unseen / n).Microseconds()), "µs/unseen")
	b.ReportMetric(float64((removed / n).Microseconds()), "µs/remove")
}
