// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"net/netip"
)

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
