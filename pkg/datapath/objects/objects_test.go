// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPrograms wants every compiled object to be loaded, but the schema, the test
// programs, and what is loaded when it is needed.
func TestPrograms(t *testing.T) {
	files, err := filepath.Glob("*_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, file := range files {
		if name := strings.TrimSuffix(file, "_bpfel.o"); name != "map" && name != "choose" && name != "sockets" {
			want = append(want, name)
		}
	}
	var got []string
	for _, o := range Programs() {
		got = append(got, o.Name)
		spec, err := o.Load()
		if err != nil {
			t.Errorf("object %s: %v", o.Name, err)
			continue
		}
		for name := range spec.Programs {
			if len(name) > 15 {
				t.Errorf("program %s: the kernel keeps 15 characters of a name", name)
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("objects: want %v, got %v", want, got)
	}
}

// TestMapsAgree wants every object's maps to be the schema's: they are shared.
func TestMapsAgree(t *testing.T) {
	schema, err := LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range Programs() {
		spec, err := o.Load()
		if err != nil {
			t.Fatal(err)
		}
		for name, m := range spec.Maps {
			if strings.HasPrefix(name, ".") {
				continue
			}
			s := schema.Maps[name]
			if s == nil {
				t.Errorf("object %s, map %s: not in lib/maps.h", o.Name, name)
			} else if s.Type != m.Type || s.KeySize != m.KeySize || s.ValueSize != m.ValueSize || s.Flags != m.Flags {
				t.Errorf("object %s, map %s: want %v, got %v", o.Name, name, s, m)
			}
		}
	}
}

func TestConvert(t *testing.T) {
	for _, text := range []string{"10.1.2.3", "fd00::1", "0.0.0.0"} {
		want := netip.MustParseAddr(text)
		if got := Addr(want).Netip(); got != want {
			t.Errorf("address %s: came back as %s", want, got)
		}
	}
	if a := Addr(netip.Addr{}); a != (MapAddr{}) || a.Netip().IsValid() {
		t.Errorf("no address: want zero and back, got %v", a)
	}
	for _, text := range []string{"10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "fd00::/64", "::/0", "2001:db8::1/128"} {
		want := netip.MustParsePrefix(text)
		if got := Prefix(Addr(want.Addr()).B, Bits(want)); got != want {
			t.Errorf("prefix %s: came back as %s", want, got)
		}
	}
	if Port(0x1234) != 0x3412 || Port(Port(8080)) != 8080 {
		t.Error("port: want bytes swapped, and back")
	}
}
