// SPDX-License-Identifier: Apache-2.0

package custom

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/netdev/watch"
)

const (
	settle = 20 * time.Millisecond  // changes that come together are looked at together
	retry  = 500 * time.Millisecond // after what the kernel refused
	resync = 30 * time.Second       // without any change
)

// ErrRefused is matched by the error of a route that can't be.
var ErrRefused = errors.New("refused")

// ErrUnknown is matched by the error of a route that isn't there.
var ErrUnknown = errors.New("no such custom route")

// Options of a Keeper.
type Options struct {
	Store Store
	// IsNode: the caller knows that this is a node, and not the device's host.
	IsNode bool
	// Cluster are the ranges of pods and Services: no custom route leads into them.
	Cluster []netip.Prefix
	// Changed is called after the verdicts changed, if set.
	Changed func()
	// Note is told what went wrong, or with nil that all is well again, if set.
	Note func(error)
}

// Keeper keeps the stored routes in force in the network namespace that it is
// called in. Make one with New.
type Keeper struct {
	Options
	wake chan struct{}

	mu       sync.Mutex // held while routes are looked at and set
	verdicts []Verdict
}

// New returns a Keeper; it does nothing yet.
func New(o Options) *Keeper { return &Keeper{Options: o, wake: make(chan struct{}, 1)} }

// Run puts the stored routes in force and keeps them there until ctx ends. It
// leaves them then.
func (k *Keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return watch.Run(ctx, func(ev watch.Event) {
			if ev.Topic == watch.Links || ev.Topic == watch.Routes || ev.Topic == watch.Lost {
				k.poke()
			}
		})
	})
	group.Go(func() error { return k.loop(ctx) })
	return group.Wait()
}

func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default: // one is waiting already
	}
}

func (k *Keeper) loop(ctx context.Context) error {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
			due.Reset(settle)
			continue
		case <-due.C:
		}
		err := k.Sync()
		if k.Note != nil {
			k.Note(err)
		}
		if due.Reset(resync); err != nil {
			due.Reset(retry)
		}
	}
}

// Sync brings the kernel to what is stored, once.
func (k *Keeper) Sync() error {
	k.mu.Lock()
	changed, err := k.sync()
	k.mu.Unlock()
	k.tell(changed)
	return err
}

func (k *Keeper) tell(changed bool) {
	if changed && k.Changed != nil {
		k.Changed()
	}
}

// sync is Sync under the lock.
func (k *Keeper) sync() (changed bool, err error) {
	records, err := k.Store.List()
	if err != nil {
		return false, err
	}
	f, err := k.look()
	if err != nil {
		return false, err
	}
	verdicts := judge(records, f)
	err = apply(verdicts)
	changed = !slices.Equal(verdicts, k.verdicts)
	k.verdicts = verdicts
	return changed, err
}

// List returns the routes with what became of them.
func (k *Keeper) List() []Verdict {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.verdicts)
}

// Look says what would become of the stored routes, and changes nothing.
func (k *Keeper) Look() ([]Verdict, error) {
	records, err := k.Store.List()
	if err != nil {
		return nil, err
	}
	f, err := k.look()
	if err != nil {
		return nil, err
	}
	return judge(records, f), nil
}

// Add stores a route that was given on this node and puts it in force. One that
// is refused, with an error that matches ErrRefused, leaves everything as it was.
// Adding a route again as it is does nothing.
func (k *Keeper) Add(r Record) (Verdict, error) {
	k.mu.Lock()
	v, err := k.add(r)
	k.mu.Unlock()
	k.tell(err == nil)
	if err != nil {
		return v, fmt.Errorf("add route %s: %w", r.Route, err)
	}
	return v, nil
}

func (k *Keeper) add(r Record) (Verdict, error) {
	records, err := k.Store.List()
	if err != nil {
		return Verdict{}, err
	}
	f, err := k.look()
	if err != nil {
		return Verdict{}, err
	}
	v := f.verdict(r)
	if clash := clashes(v, judge(records, f)); clash != "" {
		v.State, v.Message = Refused, clash
	}
	if v.State == Refused {
		return v, fmt.Errorf("%w: %s", ErrRefused, v.Message)
	}
	if slices.ContainsFunc(records, func(o Record) bool { return o.Route == r.Route }) {
		return v, nil
	}
	if err := k.Store.Change(func(now []Record) []Record { return append(now, r) }); err != nil {
		return Verdict{}, err
	}
	_, err = k.sync()
	i := slices.IndexFunc(k.verdicts, func(o Verdict) bool { return o.Record == r })
	if i >= 0 && k.verdicts[i].State != Refused {
		return k.verdicts[i], nil
	}
	if i >= 0 {
		err = fmt.Errorf("%w: %s", ErrRefused, k.verdicts[i].Message)
	}
	return Verdict{}, errors.Join(err, k.drop(func(o Record) bool { return o == r }))
}

// Remove forgets a route and takes it away; the records that it was are
// returned. An error that matches ErrUnknown says that there is none.
func (k *Keeper) Remove(iface string, dst netip.Prefix) (gone []Record, err error) {
	k.mu.Lock()
	defer func() { k.mu.Unlock(); k.tell(err == nil) }()
	records, err := k.Store.List()
	if err != nil {
		return nil, fmt.Errorf("remove route %s over %s: %w", dst, iface, err)
	}
	named := func(r Record) bool { return r.Names(iface, dst) }
	gone = slices.DeleteFunc(records, func(r Record) bool { return !named(r) })
	if len(gone) == 0 {
		return nil, fmt.Errorf("remove route %s over %s: %w", dst, iface, ErrUnknown)
	}
	if err := k.drop(named); err != nil {
		return nil, fmt.Errorf("remove route %s over %s: %w", dst, iface, err)
	}
	return gone, nil
}

// drop forgets records and brings the kernel to the rest.
func (k *Keeper) drop(which func(Record) bool) error {
	err := k.Store.Change(func(now []Record) []Record { return slices.DeleteFunc(now, which) })
	if err != nil {
		return err
	}
	_, err = k.sync()
	return err
}

// Replace stores what f makes of the records, and brings the kernel to it.
func (k *Keeper) Replace(f func([]Record) []Record) error {
	k.mu.Lock()
	err := k.Store.Change(f)
	changed := false
	if err == nil {
		changed, err = k.sync()
	}
	k.mu.Unlock()
	k.tell(changed)
	return err
}
