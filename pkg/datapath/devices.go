// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
)

// SetNIC makes a device of the node one that we manage: its entry is written
// and its programs attached, both at once or, for one that we have already,
// in place.
func (d *Datapath) SetNIC(nic NIC) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// The programs drop nothing on a device without an entry, so the entry is
	// first: from the attach on they know all.
	if err := d.nics.Set(nic); err != nil {
		return err
	}
	d.selfs[nic.Index] = nic
	if err := d.writeRoutes(); err != nil {
		return err
	}
	return d.attachDevice(deviceKinds()[0], nic.Index)
}

// RemoveNIC takes the programs off a device and deletes its entry. A device
// that is gone or was never set is no error.
func (d *Datapath) RemoveNIC(index int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.detachDevice(deviceKinds()[0], index)
	delete(d.selfs, index)
	return errors.Join(err, d.nics.Remove(index), d.writeRoutes())
}

// NICs lists the devices that we manage, without names.
func (d *Datapath) NICs() ([]NIC, error) { return d.nics.List() }

// SetTunnel makes a device the tunnel between nodes; index 0: none.
func (d *Datapath) SetTunnel(t Tunnel) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, err := d.config.Tunnel()
	if err != nil {
		return err
	}
	if err := d.config.SetTunnel(t); err != nil {
		return err
	}
	if old.IfIndex != 0 && old.IfIndex != t.IfIndex {
		if err := d.detachDevice(deviceKinds()[1], old.IfIndex); err != nil {
			return err
		}
	}
	if t.IfIndex == 0 {
		return nil
	}
	return d.attachDevice(deviceKinds()[1], t.IfIndex)
}

// AddEndpoint makes a pod known and attaches programs to the host end of its
// veth. It may be called again with the same or other addresses. On return all
// that the pod sends is checked and balanced.
func (d *Datapath) AddEndpoint(e Endpoint) error {
	// Programs first: without an entry they drop what the pod sends.
	if err := d.attachPod(e.IfIndex); err != nil {
		return err
	}
	return d.endpoints.Set(e)
}

// RemoveEndpoint makes the addresses of a pod unknown. Without addresses: all
// of e.IfIndex; with IfIndex 0: whatever interface they are at; with both, only
// addresses that are still at that interface. The programs stay on the veth and
// drop what it sends until the device goes. No such endpoint is no error.
func (d *Datapath) RemoveEndpoint(e Endpoint) error { return d.endpoints.Remove(e) }

// Endpoints lists the pods that the datapath knows.
func (d *Datapath) Endpoints() ([]Endpoint, error) { return d.endpoints.List() }

// SetRoutes makes these the prefixes that are not simply outside. This node's
// own addresses need not be among them: SetNIC adds those.
func (d *Datapath) SetRoutes(routes []Route) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.route = routes
	return d.writeRoutes()
}

// Routes lists all routes, also those of SetNIC, without nodes' names.
func (d *Datapath) Routes() ([]Route, error) { return d.routes.List() }

// writeRoutes writes the routes that were set and the node's own addresses.
func (d *Datapath) writeRoutes() error {
	all := append([]Route(nil), d.route...)
	for _, nic := range d.selfs {
		for _, addr := range nic.Addrs {
			all = append(all, Route{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Kind: RouteSelf})
		}
	}
	return d.routes.Set(all)
}

// readSelfs takes over the NICs and routes that an earlier process has set, so
// that a SetNIC before the first SetRoutes removes none, and no address of a
// NIC that is yet to be set.
func (d *Datapath) readSelfs() (err error) {
	if d.route, err = d.routes.List(); err != nil {
		return err
	}
	nics, err := d.nics.List()
	if err != nil {
		return err
	}
	for _, nic := range nics {
		d.selfs[nic.Index] = nic
	}
	return nil
}
