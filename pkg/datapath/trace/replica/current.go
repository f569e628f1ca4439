// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/losses"
	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Current returns an error if a program in force isn't the one that would be
// traced: an agent of another version runs, or none has run since the upgrade.
// Of a copy in its place, which notes what is dropped, that can't be told.
func (r *Replica) Current() error {
	pins, err := filepath.Glob(filepath.Join(r.dir, "..", "links", "nic-*-in"))
	if err != nil || len(pins) == 0 {
		return err
	}
	l, err := link.LoadPinnedLink(pins[0], nil)
	if err != nil {
		return fmt.Errorf("open link %s: %w", pins[0], err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read link %s: %w", pins[0], err)
	}
	p, err := ebpf.NewProgramFromID(info.Program)
	if errors.Is(err, unix.EPERM) {
		return nil // who may load programs may not always look at others'
	}
	if err != nil {
		return fmt.Errorf("open program of %s: %w", pins[0], err)
	}
	defer p.Close()
	have, err := p.Info()
	if err != nil {
		return fmt.Errorf("read program of %s: %w", pins[0], err)
	}
	if watched, err := losses.IsCopy(have); watched || err != nil {
		return err
	}
	spec, err := objects.LoadTcUplink()
	if err != nil {
		return fmt.Errorf("parse object tc_uplink: %w", err)
	}
	ours, err := r.loadOne(spec, "tc_uplink_in")
	if err != nil {
		return err
	}
	want, err := ours.Info()
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	if want.Tag != have.Tag {
		return errors.New("the programs in force are of another version than this trace: start the agent of this version, or use the other's patchbayctl")
	}
	return nil
}
