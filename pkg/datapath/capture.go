// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-net/patchbay/pkg/datapath/losses"
)

// LostPacket is a packet that the programs have dropped.
type LostPacket = losses.Packet

// lostLease is how long copies of the programs that note what they drop stay in
// force after somebody has looked.
const lostLease = 3 * time.Second

// lostWatch is the copies, while somebody looks.
type lostWatch struct {
	mu       sync.Mutex
	programs *losses.Programs
	end      *time.Timer

	instead atomic.Pointer[losses.Programs] // what program returns copies of
}

// Lost waits until then for packets that are dropped, and returns those since
// the last call. The first call puts copies of the programs in force, which note
// what they drop; they go when nobody has called for three seconds. Each hook
// is switched by one atomic update.
func (d *Datapath) Lost(until time.Time) ([]LostPacket, error) {
	w := &d.lost
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.closed.Load() {
		return nil, errors.New("watch drops: the datapath is closed")
	}
	if w.programs == nil {
		if err := d.startWatch(); err != nil {
			return nil, fmt.Errorf("watch drops: %w", err)
		}
	}
	w.end.Reset(time.Until(until) + lostLease)
	return w.programs.Read(until)
}

// startWatch puts the copies in force; the caller holds the lock.
func (d *Datapath) startWatch() error {
	constants, err := constants(d.settings)
	if err != nil {
		return err
	}
	delete(constants, "host_netns") // the sockets' alone
	programs, err := losses.Load(d.set.Maps, constants)
	if err != nil {
		return err
	}
	w := &d.lost
	w.programs = programs
	w.instead.Store(programs)
	if err := d.switchPrograms(); err != nil {
		return errors.Join(err, d.endWatch())
	}
	w.end = time.AfterFunc(lostLease, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if err := d.endWatch(); err != nil {
			d.log.Error("end watch of drops", "err", err)
		}
	})
	return nil
}

// endWatch puts the programs themselves in force again; the caller holds the
// lock.
func (d *Datapath) endWatch() error {
	w := &d.lost
	if w.programs == nil {
		return nil
	}
	if w.end != nil {
		w.end.Stop()
	}
	w.instead.Store(nil)
	err := d.switchPrograms()
	err = errors.Join(err, w.programs.Close())
	w.programs = nil
	return err
}

// stopWatch ends a watch under way.
func (d *Datapath) stopWatch() error {
	d.lost.mu.Lock()
	defer d.lost.mu.Unlock()
	return d.endWatch()
}

// switchPrograms puts at each device what program returns now.
func (d *Datapath) switchPrograms() error {
	errs := []error{d.replacePrograms()}
	d.mu.Lock()
	defer d.mu.Unlock()
	for index := range d.selfs { // those that have filters instead of links
		errs = append(errs, d.attachDevice(deviceKinds()[0], index))
	}
	return errors.Join(errs...)
}
