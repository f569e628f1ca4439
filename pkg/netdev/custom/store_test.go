// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// filled is a store into which the records went one after the other.
func filled(t *testing.T, records ...Record) Store {
	t.Helper()
	s := Store{Path: filepath.Join(t.TempDir(), "state", "routes.db")}
	for _, r := range records {
		if err := s.Change(func(now []Record) []Record { return append(now, r) }); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func three() []Record {
	return []Record{
		{Route: route("eth1", "10.1.0.0/16", "192.168.20.1", 1), Everywhere: true},
		{Route: route("eth1", "10.2.0.0/16", "", 2)},
		{Route: route("eth1", "fd00:60::/64", "fe80::1", 3), Object: "cameras"},
	}
}

func TestStoreRemembers(t *testing.T) {
	s := filled(t, three()...)
	got, err := Store{Path: s.Path}.List()
	if err != nil || !slices.Equal(got, three()) {
		t.Errorf("records: got %+v, %v, want %+v", got, err, three())
	}
}

func TestDamagedStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(text []byte) []byte
		want   []Record
	}{
		{"whole", func(b []byte) []byte { return b }, three()},
		{"a bit", func(b []byte) []byte { b[20] ^= 4; return b }, three()},
		{"the last record", func(b []byte) []byte { b[len(b)-40] ^= 4; return b }, three()[:2]},
		{"cut short", func(b []byte) []byte { return b[:len(b)-30] }, three()[:2]},
		{"the end alone", func(b []byte) []byte { return b[:len(b)-3] }, three()},
		{"empty", func([]byte) []byte { return nil }, three()[:2]},
		{"noise", func(b []byte) []byte { return slices.Repeat([]byte{0xa5}, len(b)) }, three()[:2]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := filled(t, three()...)
			text, err := os.ReadFile(s.Path)
			if err != nil {
				t.Fatal(err)
			}
			whole := tt.name == "whole"
			if err := os.WriteFile(s.Path, tt.damage(text), 0o600); err != nil {
				t.Fatal(err)
			}
			told := 0
			s.Damaged = func(err error) { told++; t.Log(err) }
			for range 2 {
				got, err := s.List()
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("records: got %+v, %v, want %+v", got, err, tt.want)
				}
			}
			if want := 1; whole && told != 0 || !whole && told != want {
				t.Errorf("told %d times of damage", told)
			}
		})
	}
}

func FuzzReadFile(f *testing.F) {
	line, err := encode(three()[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, "end 1\n"...))
	f.Add([]byte("end 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "routes.db")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (Store{Path: path}).List(); err != nil {
			t.Error(err)
		}
	})
}
