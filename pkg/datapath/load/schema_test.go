// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// TestSchema holds the layout of every pinned map. A difference would let new
// programs misread old maps: raise Schema, write the migration, and only then
// make a new file with what the test prints.
func TestSchema(t *testing.T) {
	want, err := os.ReadFile(fmt.Sprintf("testdata/schema%d.txt", Schema))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := objects.LoadMap()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if m := spec.Maps[name]; !strings.HasPrefix(name, ".") {
			fmt.Fprintf(&b, "%s: %v, %s, %s\n", name, m.Type, layout(m.Key, m.KeySize), layout(m.Value, m.ValueSize))
		}
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("layout of schema %d (-want +got):\n%s\n%s", Schema, diff, b.String())
	}
}

// layout names a type's members and where they are.
func layout(typ btf.Type, size uint32) string {
	s, ok := btf.UnderlyingType(typ).(*btf.Struct)
	if !ok {
		return fmt.Sprint(size)
	}
	var members []string
	for _, m := range s.Members {
		members = append(members, fmt.Sprintf("%s %d", m.Name, m.Offset.Bytes()))
	}
	return fmt.Sprintf("%s{%s} %d", s.Name, strings.Join(members, ", "), size)
}
