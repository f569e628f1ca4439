// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/search"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/reconcile/addresses"
)

// nothingAnnounced is a kernel without entries.
type nothingAnnounced struct{ addresses.Datapath }

func (nothingAnnounced) Announcements() ([]datapath.Announcement, error) { return nil, nil }

// TestMoved: who watches over what is held learns of each move at once.
func TestMoved(t *testing.T) {
	a, err := newAnnouncer(config.Config{NodeName: "a"}, nothingAnnounced{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var woken []string
	a.wake = func(part string) { woken = append(woken, part) }
	a.Keeper.Moved(holder.Address{Phase: holder.Holding})
	if !slices.Equal(woken, []string{search.PartName}) {
		t.Errorf("woken %v, want the searches", woken)
	}
}
