// SPDX-License-Identifier: Apache-2.0

// Package byhand does what the agent of a device does, where none runs.
package byhand

import (
	"fmt"
	"os"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
)

// CreateSwitch makes a switch where no agent keeps it.
func CreateSwitch(s agentapi.SwitchCreate) (agentapi.Switch, error) {
	kind, err := switches.ParseKind(s.Type)
	if err != nil {
		return agentapi.Switch{}, err
	}
	name, err := os.Hostname()
	if err != nil {
		return agentapi.Switch{}, err
	}
	want := switches.Switch{Name: kind.String(), Kind: kind, Port: s.Port, VLAN: s.VLAN, MTU: s.MTU, Addrs: s.Addrs}
	keeper := switches.Keeper{Sysctls: netdev.Sysctls("/proc/sys"), Seed: name}
	if err := keeper.Check(want); err != nil {
		return agentapi.Switch{}, err
	}
	state, err := keeper.Ensure(want)
	return seen(want, state), err
}

// DisablePort takes the external switch off a port where no agent keeps it.
func DisablePort(port string) error {
	there, _, err := switches.Present()
	if err != nil {
		return err
	}
	for _, s := range there {
		if s.Kind == switches.External && s.Port == port {
			return switches.RemoveExternal()
		}
	}
	return fmt.Errorf("port %s is not enabled for compute", port)
}

// Switches are those that there are where no agent keeps them.
func Switches() ([]agentapi.Switch, error) {
	there, states, err := switches.Present()
	if err != nil {
		return nil, err
	}
	var out []agentapi.Switch
	for i, s := range there {
		out = append(out, seen(s, states[i]))
	}
	return out, nil
}

func seen(s switches.Switch, state switches.State) agentapi.Switch {
	name := s.Kind.String()
	out := agentapi.Switch{Name: name, Type: strings.ToUpper(name[:1]) + name[1:], Port: s.Port, VLAN: s.VLAN, Bridge: state.Bridge,
		Uplink: state.Uplink, MTU: state.MTU, Addrs: s.Addrs, Ready: state.Err == nil}
	if state.Err != nil {
		out.Reason = state.Err.Error()
	}
	return out
}
