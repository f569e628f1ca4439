// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestRemovePodLinks(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, peer := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		gone := make(map[int]string)
		for i := range 20 {
			name := fmt.Sprintf("pb%011x", i)
			netlab.Wire(t, here, name, peer, fmt.Sprint("eth", i))
			gone[here.Index(t, name)] = name
		}
		kept := here.Index(t, "pb00000000000")
		gone[kept] = "pbffffffffff0" // the index is another's by now
		gone[9999] = "pb99999999999" // and this one is no more
		began := time.Now()
		for range 2 {
			if err := RemovePodLinks(gone); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("19 links in %v", time.Since(began))
		left, err := PodLinks()
		if names := slices.Collect(maps.Keys(left)); err != nil || len(names) != 1 || names[0] != "pb00000000000" {
			t.Errorf("left %v, %v, want the one whose name differs", names, err)
		}
	})
}
