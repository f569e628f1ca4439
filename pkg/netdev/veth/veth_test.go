// SPDX-License-Identifier: Apache-2.0

package veth

import (
	"errors"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestCreate(t *testing.T) {
	netlab.Require(t)
	node, pod := netlab.New(t), netlab.New(t)
	node.Exec(t, "ip", "link", "add", "name", "br0", "type", "bridge")
	pair := Pair{
		Name: "host0", MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1400, Master: node.Index(t, "br0"),
		Peer: Peer{Name: "eth0", MAC: [6]byte{2, 0, 0, 0, 0, 2}, Netns: pod.FD()},
	}
	create := func() error { return node.Do(func() error { return Create(pair) }) }
	if err := create(); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		out   string
		wants []string
	}{
		{node.Exec(t, "ip", "-o", "link", "show", "host0"), []string{"02:00:00:00:00:01", "mtu 1400", "master br0", ",UP"}},
		{pod.Exec(t, "ip", "-o", "link", "show", "eth0"), []string{"02:00:00:00:00:02", "mtu 1400"}},
	} {
		for _, want := range end.wants {
			if !strings.Contains(end.out, want) {
				t.Errorf("link %s: want %q in it", end.out, want)
			}
		}
	}
	if err := create(); !errors.Is(err, ErrExists) {
		t.Errorf("again: %v, want ErrExists", err)
	}
	pair.Name = "host1"
	if err := create(); !errors.Is(err, ErrExists) {
		t.Errorf("with the other end's name taken: %v, want ErrExists", err)
	}
	pair.Name, pair.Peer.Name, pair.MTU = "host2", "eth2", 70000
	if err := create(); err == nil || !strings.Contains(err.Error(), "host2") {
		t.Errorf("with an impossible MTU: %v, want an error that names host2", err)
	}
	if out, err := node.TryExec("ip", "link", "show", "host2"); err == nil {
		t.Errorf("left behind: %s", out)
	}
}

func TestCreateDefaults(t *testing.T) {
	netlab.Require(t)
	node, pod := netlab.New(t), netlab.New(t)
	err := node.Do(func() error { return Create(Pair{Name: "host0", Peer: Peer{Name: "eth0", Netns: pod.FD()}}) })
	if err != nil {
		t.Fatal(err)
	}
	if out := pod.Exec(t, "ip", "-o", "link", "show", "eth0"); !strings.Contains(out, "mtu 1500") {
		t.Errorf("link %s: want the kernel's MTU", out)
	}
}
