// SPDX-License-Identifier: Apache-2.0

package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// byHand labels switches that patchbayctl made: it may remove them, too. Others
// are the operator's files.
const byHand = v1alpha1.Group + "/by-hand"

const (
	// switchTime is how long a change of a switch may take to be in force.
	switchTime = 10 * time.Second
	switchLook = 20 * time.Millisecond
)

// Serve runs the device and its API.
func (d *Device) Serve(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	listener, err := agentapi.Listen(socket)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agentapi.Serve(ctx, listener, d.handler(), d.log) })
	group.Go(func() error { return d.Run(ctx) })
	return group.Wait()
}

// handler serves the device's part of the agent's API.
func (d *Device) handler() agentapi.Handler {
	return agentapi.Handler{
		agentapi.OpSwitches:     agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Switch, error) { return d.list(), nil }),
		agentapi.OpSwitchCreate: agentapi.Do(d.create),
		agentapi.OpPortDisable:  agentapi.Do(d.disablePort),
		agentapi.OpRoutes: agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Route, error) {
			return nil, agentapi.Errorf(agentapi.CodeInvalid, "this is the device's host: custom routes are on the nodes, ask there")
		}),
		agentapi.OpRouteAdd: agentapi.Do(func(context.Context, agentapi.RouteAdd) (agentapi.Route, error) {
			return agentapi.Route{}, agentapi.Errorf(agentapi.CodeInvalid, "this is the device's host: custom routes are for the nodes, add it there")
		}),
	}
}

// list are the declared switches.
func (d *Device) list() []agentapi.Switch {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []agentapi.Switch
	for _, o := range source.List[*v1alpha1.VirtualSwitch](d.store, source.KindVirtualSwitch) {
		s, err := toSwitch(o)
		state, ok := d.states[o.Name]
		if state.Err = cmp.Or(err, state.Err); !ok && err == nil {
			state.Err = errNotSeen
		}
		out = append(out, viewOf(s, state))
	}
	return out
}

var errNotSeen = errors.New("it is being made")

func viewOf(s switches.Switch, state switches.State) agentapi.Switch {
	out := agentapi.Switch{Name: s.Name, Type: string(v1alpha1.SwitchExternal), Port: s.Port, VLAN: s.VLAN, Bridge: s.Kind.Bridge(),
		Uplink: state.Uplink, MTU: state.MTU, Addrs: s.Addrs, Ready: state.Err == nil}
	if s.Kind == switches.Internal {
		out.Type = string(v1alpha1.SwitchInternal)
	}
	if state.Err != nil {
		out.Reason = state.Err.Error()
	}
	return out
}

// create declares a switch, after it is known that it can be, and waits for it.
func (d *Device) create(ctx context.Context, c agentapi.SwitchCreate) (agentapi.Switch, error) {
	o, err := declaration(c)
	if err != nil {
		return agentapi.Switch{}, agentapi.Errorf(agentapi.CodeInvalid, "%v", err)
	}
	want, err := toSwitch(o)
	if err != nil {
		return agentapi.Switch{}, agentapi.Errorf(agentapi.CodeInvalid, "%v", err)
	}
	for _, other := range source.List[*v1alpha1.VirtualSwitch](d.store, source.KindVirtualSwitch) {
		if other.Spec.Type != o.Spec.Type {
			continue
		}
		if o.Name = other.Name; other.Spec.Port != o.Spec.Port || other.Labels[byHand] == "" {
			return agentapi.Switch{}, agentapi.Errorf(agentapi.CodeInvalid, "switch %s is there already%s; a device has one of each type", other.Name, ofPort(other))
		}
		want.Name = o.Name
	}
	if err := d.keeper.Check(want); err != nil {
		return agentapi.Switch{}, agentapi.Errorf(agentapi.CodeInvalid, "%v", err)
	}
	if err := d.writer.Apply(ctx, o); err != nil {
		return agentapi.Switch{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, switchTime)
	defer cancel()
	for {
		for _, s := range d.list() {
			if s.Name == o.Name && s.Ready && s.Port == want.Port && s.VLAN == want.VLAN && (want.MTU == 0 || s.MTU == want.MTU) {
				return s, nil
			}
		}
		if err := pause(ctx); err != nil {
			return agentapi.Switch{}, fmt.Errorf("switch %s is declared, and not in force after %v", o.Name, switchTime)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(switchLook):
		return nil
	}
}

func ofPort(o *v1alpha1.VirtualSwitch) string {
	if o.Spec.Port == "" {
		return ""
	}
	return ", on port " + o.Spec.Port
}

// declaration is the object that a switch asked for becomes.
func declaration(c agentapi.SwitchCreate) (*v1alpha1.VirtualSwitch, error) {
	kind, err := switches.ParseKind(c.Type)
	if err != nil {
		return nil, err
	}
	o := &v1alpha1.VirtualSwitch{ObjectMeta: metav1.ObjectMeta{Name: kind.String(), Labels: map[string]string{byHand: "true"}}}
	o.Spec = v1alpha1.VirtualSwitchSpec{Type: v1alpha1.SwitchExternal, Port: c.Port}
	if kind == switches.Internal {
		o.Spec.Type = v1alpha1.SwitchInternal
	}
	if c.VLAN != 0 {
		vlan := int32(c.VLAN)
		o.Spec.VLAN = &vlan
	}
	if c.MTU != 0 {
		mtu := int32(c.MTU)
		o.Spec.MTU = &mtu
	}
	for _, p := range c.Addrs {
		o.Spec.Addresses = append(o.Spec.Addresses, p.String())
	}
	return o, source.Check(o, nil)
}

// disablePort takes back what declares the port's switch, and waits until the
// port is free.
func (d *Device) disablePort(ctx context.Context, p agentapi.PortDisable) (agentapi.None, error) {
	var declared *v1alpha1.VirtualSwitch
	for _, o := range source.List[*v1alpha1.VirtualSwitch](d.store, source.KindVirtualSwitch) {
		if o.Spec.Port == p.Port && p.Port != "" {
			declared = o
		}
	}
	switch {
	case declared == nil:
		return agentapi.None{}, agentapi.Errorf(agentapi.CodeUnknown, "port %s is not enabled for compute", p.Port)
	case declared.Labels[byHand] == "":
		return agentapi.None{}, agentapi.Errorf(agentapi.CodeInvalid, "VirtualSwitch %s declares it; remove that object", declared.Name)
	}
	d.mu.Lock()
	if _, ok := d.states[declared.Name]; !ok { // it is being made just now: wait for its end, too
		d.states[declared.Name] = switches.State{Name: declared.Name, Err: errNotSeen}
	}
	d.mu.Unlock()
	if err := d.writer.Delete(ctx, source.KindVirtualSwitch, source.KeyOf(declared)); err != nil {
		return agentapi.None{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, switchTime)
	defer cancel()
	for {
		d.mu.Lock()
		_, there := d.states[declared.Name]
		d.mu.Unlock()
		if !there {
			return agentapi.None{}, nil
		}
		if err := pause(ctx); err != nil {
			return agentapi.None{}, fmt.Errorf("port %s is still the switch's after %v", p.Port, switchTime)
		}
	}
}
