// SPDX-License-Identifier: Apache-2.0

package switches

import (
	"errors"
	"net"

	"github.com/patchbay-net/patchbay/pkg/netdev"
)

// Present returns the switches that there are, as declarations that would make
// them, and their states: whoever made them.
func Present() ([]Switch, []State, error) {
	var found []Switch
	var states []State
	for _, kind := range []Kind{External, Internal} {
		bridge, err := findBridge(kind.Bridge())
		if err != nil {
			return nil, nil, err
		}
		if bridge == nil {
			continue
		}
		a := bridge.Attrs()
		s := Switch{Name: kind.String(), Kind: kind, MTU: a.MTU}
		state := State{Name: s.Name, Bridge: a.Name, MTU: a.MTU}
		if m := recall(bridge); kind == External {
			s.Port, s.VLAN, state.Uplink = m.port, m.vlan, m.uplink()
		} else if state.Uplink, err = defaultPort(); err != nil {
			return nil, nil, err
		}
		links, err := netdev.Links()
		if err != nil {
			return nil, nil, err
		}
		for _, l := range links {
			if l.Index == a.Index && kind == Internal {
				s.Addrs = l.Addrs
			}
		}
		if a.Flags&net.FlagUp == 0 {
			state.Err = errors.New("the bridge is down")
		}
		found, states = append(found, s), append(states, state)
	}
	return found, states, nil
}
