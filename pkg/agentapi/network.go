// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"net/netip"
)

// The operations on custom routes.
const (
	OpRoutes      Op = "routes"       // nothing → []Route
	OpRouteAdd    Op = "route.add"    // RouteAdd → Route
	OpRouteRemove Op = "route.remove" // RouteRemove → []Route, those removed
)

// Route is a custom route: never one of the system's.
type Route struct {
	Interface   string       `json:"interface"`
	Destination netip.Prefix `json:"destination"`
	NextHop     netip.Addr   `json:"nextHop,omitzero"` // zero: the destination is on the link
	Metric      int          `json:"metric"`           // the lowest goes first
	NodeRoute   string       `json:"nodeRoute"`        // the object that it is of; empty: given on this node
	State       string       `json:"state"`            // Applied, Waiting or Refused
	Message     string       `json:"message,omitempty"`
}

// RouteAdd is a route as asked for.
type RouteAdd struct {
	Interface   string `json:"interface"`
	Destination string `json:"destination"` // an address, or a prefix without host bits
	NextHop     string `json:"nextHop,omitempty"`
	Metric      int    `json:"metric,omitempty"`   // zero: 100
	NodeOnly    bool   `json:"nodeOnly,omitempty"` // for this node, not for all
}

// RouteRemove names a route.
type RouteRemove struct {
	Interface   string `json:"interface"`
	Destination string `json:"destination"`
}

// Routes lists the custom routes for this node.
func (c Client) Routes(ctx context.Context) ([]Route, error) { return get[[]Route](ctx, c, OpRoutes) }

// AddRoute adds a custom route. A refused one changes nothing.
func (c Client) AddRoute(ctx context.Context, r RouteAdd) (Route, error) {
	var out Route
	err := c.call(ctx, OpRouteAdd, r, &out)
	return out, err
}

// RemoveRoute removes a custom route.
func (c Client) RemoveRoute(ctx context.Context, r RouteRemove) ([]Route, error) {
	var out []Route
	err := c.call(ctx, OpRouteRemove, r, &out)
	return out, err
}

// The operations on the device's switches, which the agent in the role of the
// device serves.
const (
	OpSwitches     Op = "switches"      // nothing → []Switch
	OpSwitchCreate Op = "switch.create" // SwitchCreate → Switch
	OpPortDisable  Op = "port.disable"  // PortDisable → nothing
)

// Switch is a virtual switch as it is.
type Switch struct {
	Name   string `json:"name"`
	Type   string `json:"type"` // Internal or External
	Port   string `json:"port,omitempty"`
	VLAN   int    `json:"vlan,omitempty"`
	Bridge string `json:"bridge"`
	// Uplink is the port that its traffic leaves by.
	Uplink string         `json:"uplink,omitempty"`
	MTU    int            `json:"mtu,omitempty"`
	Addrs  []netip.Prefix `json:"addrs,omitempty"`
	Ready  bool           `json:"ready"`
	Reason string         `json:"reason,omitempty"` // why it isn't as declared
}

// SwitchCreate is a switch as asked for.
type SwitchCreate struct {
	Type  string         `json:"type"` // Internal or External
	Port  string         `json:"port,omitempty"`
	VLAN  int            `json:"vlan,omitempty"`
	MTU   int            `json:"mtu,omitempty"`
	Addrs []netip.Prefix `json:"addrs,omitempty"`
}

// PortDisable names the port that is to be no switch's any more.
type PortDisable struct {
	Port string `json:"port"`
}

// Switches lists the device's switches.
func (c Client) Switches(ctx context.Context) ([]Switch, error) {
	return get[[]Switch](ctx, c, OpSwitches)
}

// CreateSwitch makes a switch, for good. What is refused changes nothing.
func (c Client) CreateSwitch(ctx context.Context, s SwitchCreate) (Switch, error) {
	var out Switch
	err := c.call(ctx, OpSwitchCreate, s, &out)
	return out, err
}

// DisablePort takes the external switch off a port, which is then as it was before.
func (c Client) DisablePort(ctx context.Context, port string) error {
	return c.call(ctx, OpPortDisable, PortDisable{Port: port}, nil)
}
