// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"net/netip"
	"testing"
)

func TestAddressesAreDistinctAndOnTheirSwitch(t *testing.T) {
	l := New("test", t.TempDir())
	l.DualStack = true
	l.SetNodes(MaxNodes)
	seen := map[netip.Addr]string{}
	check := func(who string, p, gateway Port) {
		gateways := l.addresses(gateway)
		for i, a := range l.addresses(p) {
			if other, ok := seen[a.Addr()]; ok {
				t.Errorf("%s and %s have %s", who, other, a)
			}
			seen[a.Addr()] = who
			if a.Masked() != gateways[i].Masked() {
				t.Errorf("%s has %s, its gateway %s", who, a, gateways[i])
			}
			for _, pool := range l.Site().PoolCIDRs {
				if netip.MustParsePrefix(pool).Contains(a.Addr()) {
					t.Errorf("%s has %s of the LoadBalancer pool", who, a)
				}
			}
		}
	}
	sw := switches()
	for _, s := range sw {
		check(s.Name, s.Gateway, s.Gateway)
	}
	for _, m := range l.Machines {
		check(m.Name, m.Internal, sw[0].Gateway)
		check(m.Name, m.External, sw[1].Gateway)
	}
	check("client", ClientPort(), sw[1].Gateway)
	internal, external := testerPorts()
	check("tester", internal, sw[0].Gateway)
	check("tester", external, sw[1].Gateway)
	for _, pool := range l.Site().PoolCIDRs {
		if p := netip.MustParsePrefix(pool); p != p.Masked() {
			t.Errorf("pool %s has host bits", p)
		}
	}
}

func TestDownWithoutUp(t *testing.T) {
	l := New("test-absent", t.TempDir())
	if err := l.Down(); err != nil {
		t.Error(err)
	}
	if _, err := Load("test-absent", t.TempDir()); !errors.Is(err, ErrNotUp) {
		t.Errorf("want ErrNotUp, got %v", err)
	}
}

func TestRecordedOnce(t *testing.T) {
	l := New("test", t.TempDir())
	if err := l.save(nil); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"b", "a", "b"} {
		if err := l.record("list", line); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.recorded("list")
	if err != nil || len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("want [a b], got %v, %v", got, err)
	}
}
