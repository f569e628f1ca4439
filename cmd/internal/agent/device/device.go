// SPDX-License-Identifier: Apache-2.0

// Package device is patchbayd in the role of the device: it keeps the device's
// switches as declared, and makes and removes them for patchbayctl.
package device

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/netdev/watch"
	"github.com/patchbay-net/patchbay/pkg/source"
)

const (
	// settle is how long changes are gathered before the switches are looked at.
	settle = 100 * time.Millisecond
	// resync is how often they are looked at without a change.
	resync = 30 * time.Second
)

// Device keeps the device's switches as declared. Make one with New.
type Device struct {
	keeper switches.Keeper
	source source.Source
	writer source.Writer
	log    *slog.Logger

	store   *source.Store
	written map[source.Key]v1alpha1.VirtualSwitchStatus

	mu     sync.Mutex
	states map[string]switches.State // by switch, of the last look
}

// New returns a device that knows nothing yet.
func New(keeper switches.Keeper, src source.Source, writer source.Writer, log *slog.Logger) *Device {
	return &Device{keeper: keeper, source: src, writer: writer, log: log, store: source.NewStore(),
		written: map[source.Key]v1alpha1.VirtualSwitchStatus{}, states: map[string]switches.State{}}
}

// Run keeps the switches until ctx ends and leaves them as they are then.
func (d *Device) Run(ctx context.Context) error {
	events := make(chan source.Event)
	changed := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return d.source.Run(ctx, []source.Kind{source.KindVirtualSwitch}, func(ev source.Event) {
			select {
			case events <- ev:
			case <-ctx.Done():
			}
		})
	})
	group.Go(func() error {
		return watch.Run(ctx, func(ev watch.Event) {
			if ev.Topic == watch.Neighbours {
				return
			}
			select {
			case changed <- struct{}{}:
			default: // one is waiting already
			}
		})
	})
	group.Go(func() error { return d.loop(ctx, events, changed) })
	return group.Wait()
}

// loop reconciles after each change, when it has settled, and now and then.
// Nothing is taken away before all declarations are known.
func (d *Device) loop(ctx context.Context, events <-chan source.Event, changed <-chan struct{}) error {
	due := time.NewTimer(resync)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-events:
			if ev.Op == source.Problem {
				d.log.Warn("object refused", "kind", ev.Kind, "object", ev.Key, "err", ev.Err)
			}
			d.store.Apply(ev)
			due.Reset(settle)
		case <-changed:
			due.Reset(settle)
		case <-due.C:
			if d.store.Synced(source.KindVirtualSwitch) {
				d.reconcile(ctx)
			}
			due.Reset(resync)
		}
	}
}

// reconcile makes the switches what is declared and reports on each.
func (d *Device) reconcile(ctx context.Context) {
	objects := map[string]*v1alpha1.VirtualSwitch{}
	seen := map[string]switches.State{}
	var want []switches.Switch
	for _, o := range source.List[*v1alpha1.VirtualSwitch](d.store, source.KindVirtualSwitch) {
		s, err := toSwitch(o)
		if err != nil {
			seen[o.Name] = switches.State{Name: o.Name, Err: err}
			d.report(ctx, o, seen[o.Name])
			continue
		}
		objects[o.Name] = o
		want = append(want, s)
	}
	states, err := d.keeper.Sync(want)
	if err != nil {
		d.log.Error("take switches away", "err", err)
	}
	for _, state := range states {
		seen[state.Name] = state
		d.report(ctx, objects[state.Name], state)
	}
	d.mu.Lock()
	d.states = seen
	d.mu.Unlock()
}

// report writes a switch's status and logs it, if it isn't the one written last.
func (d *Device) report(ctx context.Context, o *v1alpha1.VirtualSwitch, state switches.State) {
	key := source.KeyOf(o)
	status := statusOf(d.written[key], o.Generation, state)
	if equality.Semantic.DeepEqual(status, d.written[key]) {
		return
	}
	if state.Err != nil {
		d.log.Error("switch", "switch", o.Name, "err", state.Err)
	} else {
		d.log.Info("switch ready", "switch", o.Name, "bridge", state.Bridge, "uplink", state.Uplink, "mtu", state.MTU)
	}
	updated := o.DeepCopy()
	updated.Status = status
	if err := d.writer.UpdateStatus(ctx, updated); err != nil {
		d.log.Warn("write status", "switch", o.Name, "err", err)
		return // and again at the next look
	}
	d.written[key] = status
}

// statusOf is the status that says state; times of conditions that stay are kept from before.
func statusOf(before v1alpha1.VirtualSwitchStatus, generation int64, state switches.State) v1alpha1.VirtualSwitchStatus {
	status := v1alpha1.VirtualSwitchStatus{Bridge: state.Bridge, Uplink: state.Uplink, MTU: int32(state.MTU)}
	status.Conditions = append(status.Conditions, before.Conditions...)
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "AsDeclared", ObservedGeneration: generation}
	if state.Err != nil {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "Refused", state.Err.Error()
	}
	meta.SetStatusCondition(&status.Conditions, ready)
	return status
}

// toSwitch converts a declaration, which the source has validated.
func toSwitch(o *v1alpha1.VirtualSwitch) (switches.Switch, error) {
	kind, err := switches.ParseKind(string(o.Spec.Type))
	if err != nil {
		return switches.Switch{}, err
	}
	s := switches.Switch{Name: o.Name, Kind: kind, Port: o.Spec.Port}
	if o.Spec.VLAN != nil {
		s.VLAN = int(*o.Spec.VLAN)
	}
	if o.Spec.MTU != nil {
		s.MTU = int(*o.Spec.MTU)
	}
	for _, text := range o.Spec.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return switches.Switch{}, fmt.Errorf("switch %s: address %q: %w", o.Name, text, err)
		}
		s.Addrs = append(s.Addrs, p)
	}
	return s, nil
}
