// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
)

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func subnet(cidr, first, last, gateway string, exclude ...string) Subnet {
	s := Subnet{First: addr(first), Last: addr(last), Gateway: addr(gateway)}
	if cidr != "" {
		s.Prefix = netip.MustParsePrefix(cidr)
	}
	for _, e := range exclude {
		s.Exclude = append(s.Exclude, netip.MustParsePrefix(e))
	}
	return s
}

func TestNewPool(t *testing.T) {
	tests := []struct {
		name    string
		subnets []Subnet
		want    string // spans
		size    uint64
		err     []string // parts of the error
	}{
		{name: "whole /24", subnets: []Subnet{subnet("10.0.0.0/24", "", "", "")}, want: "[10.0.0.1-10.0.0.254]", size: 254},
		{name: "gateway taken out", subnets: []Subnet{subnet("10.0.0.0/24", "", "", "10.0.0.1")}, want: "[10.0.0.2-10.0.0.254]", size: 253},
		{name: "gateway in the middle", subnets: []Subnet{subnet("10.0.0.0/29", "", "", "10.0.0.3")}, want: "[10.0.0.1-10.0.0.2 10.0.0.4-10.0.0.6]", size: 5},
		{name: "ends given", subnets: []Subnet{subnet("10.0.0.0/24", "10.0.0.0", "10.0.0.255", "")}, want: "[10.0.0.0-10.0.0.255]", size: 256},
		{name: "exclusions", subnets: []Subnet{subnet("10.0.0.0/28", "", "", "", "10.0.0.4/30", "10.0.0.1/32", "10.9.0.0/16")}, want: "[10.0.0.2-10.0.0.3 10.0.0.8-10.0.0.14]", size: 9},
		{name: "one address", subnets: []Subnet{subnet("10.0.0.7/32", "", "", "")}, want: "[10.0.0.7-10.0.0.7]", size: 1},
		{name: "two addresses", subnets: []Subnet{subnet("10.0.0.6/31", "", "", "")}, want: "[10.0.0.6-10.0.0.7]", size: 2},
		{name: "IPv6", subnets: []Subnet{subnet("fd00::/120", "", "", "")}, want: "[fd00::1-fd00::ff]", size: 255},
		{name: "IPv6, more than can be counted", subnets: []Subnet{subnet("fd00::/48", "", "", "")}, want: "[fd00::1-fd00::ffff:ffff:ffff:ffff:ffff]", size: math.MaxUint64},
		{name: "sorted", subnets: []Subnet{subnet("10.0.1.0/30", "", "", ""), subnet("10.0.0.0/30", "", "", "")}, want: "[10.0.0.1-10.0.0.2 10.0.1.1-10.0.1.2]", size: 4},
		{name: "none", err: []string{"no subnet"}},
		{name: "empty subnet", subnets: []Subnet{{}}, err: []string{"no subnet"}},
		{name: "host bits", subnets: []Subnet{subnet("10.0.0.3/24", "", "", "")}, err: []string{"10.0.0.3/24", "10.0.0.0/24"}},
		{name: "mapped", subnets: []Subnet{subnet("::ffff:10.0.0.0/120", "", "", "")}, err: []string{"IPv4 written as IPv6"}},
		{name: "first outside", subnets: []Subnet{subnet("10.0.0.0/24", "10.0.1.1", "", "")}, err: []string{"first", "10.0.1.1", "10.0.0.0/24"}},
		{name: "last outside", subnets: []Subnet{subnet("10.0.0.0/24", "", "10.0.1.1", "")}, err: []string{"last", "10.0.1.1", "10.0.0.0/24"}},
		{name: "gateway outside", subnets: []Subnet{subnet("10.0.0.0/24", "", "", "10.0.1.1")}, err: []string{"gateway", "10.0.1.1", "10.0.0.0/24"}},
		{name: "backwards", subnets: []Subnet{subnet("10.0.0.0/24", "10.0.0.9", "10.0.0.8", "")}, err: []string{"10.0.0.9", "10.0.0.8"}},
		{name: "exclusion of another family", subnets: []Subnet{subnet("10.0.0.0/24", "", "", "", "fd00::/64")}, err: []string{"fd00::/64", "10.0.0.0/24"}},
		{name: "all excluded", subnets: []Subnet{subnet("10.0.0.0/30", "", "", "10.0.0.2", "10.0.0.1/32")}, err: []string{"nothing is left", "10.0.0.0/30"}},
		{name: "families mixed", subnets: []Subnet{subnet("10.0.0.0/24", "", "", ""), subnet("fd00::/120", "", "", "")}, err: []string{"10.0.0.0/24", "fd00::/120"}},
		{name: "overlap", subnets: []Subnet{subnet("10.0.0.0/24", "", "", ""), subnet("10.0.0.128/25", "", "", "")}, err: []string{"10.0.0.1-10.0.0.254", "10.0.0.129-10.0.0.254"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pool, err := NewPool("p", test.subnets...)
			if len(test.err) > 0 {
				checkError(t, err, test.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if pool.String() != test.want || pool.Size() != test.size {
				t.Errorf("pool = %s of %d, want %s of %d", pool, pool.Size(), test.want, test.size)
			}
		})
	}
}

func checkError(t *testing.T, err error, parts []string) {
	t.Helper()
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("error = %v, want ErrInvalid", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error = %v, want %q in it", err, part)
		}
	}
}

func newPool(t testing.TB, name string, subnets ...Subnet) Pool {
	t.Helper()
	pool, err := NewPool(name, subnets...)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestCheckPools(t *testing.T) {
	a := newPool(t, "a", subnet("10.0.0.0/24", "", "", ""))
	b := newPool(t, "b", subnet("10.0.0.200/29", "", "", ""))
	c := newPool(t, "c", subnet("10.0.1.0/24", "", "", ""))
	if err := CheckPools([]Pool{a, c}); err != nil {
		t.Errorf("disjoint pools: %v", err)
	}
	checkError(t, CheckPools([]Pool{a, c, b}), []string{"10.0.0.1-10.0.0.254", "10.0.0.201-10.0.0.206", "pool a", "pool b"})
}

func TestAssign(t *testing.T) {
	pools := []Pool{newPool(t, "4", subnet("10.0.0.0/24", "", "", "")), newPool(t, "6", subnet("fd00::/120", "", "", ""))}
	got, err := Assign(pools, []netip.Addr{addr("fd00::7")})
	if err != nil || got[0].IsValid() || got[1] != addr("fd00::7") {
		t.Errorf("Assign = %v, %v, want the second pool's", got, err)
	}
	if _, err := Assign(pools, []netip.Addr{addr("10.0.1.1")}); !errors.Is(err, ErrOutside) {
		t.Errorf("error = %v, want ErrOutside", err)
	}
	if _, err := Assign(pools, []netip.Addr{addr("10.0.0.1"), addr("10.0.0.2")}); !errors.Is(err, ErrInvalid) {
		t.Errorf("error = %v, want ErrInvalid", err)
	}
	if s, ok := pools[0].Subnet(addr("10.0.0.9")); !ok || s.Prefix.String() != "10.0.0.0/24" {
		t.Errorf("Subnet = %v, %t", s, ok)
	}
	if _, ok := pools[0].Subnet(addr("10.0.1.9")); ok {
		t.Error("Subnet found an address of another subnet")
	}
}
