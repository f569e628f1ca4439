// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath/maps"
	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
)

// alone is the view of a node whose agent doesn't answer: what is in force, and
// no names but the devices'.
type alone struct{ nics []agentapi.NIC }

// Alone returns the view of a node whose agent doesn't answer.
func Alone(pinDir string) (View, error) {
	tracer, err := trace.Open(trace.Options{PinDir: pinDir})
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	defer tracer.Close()
	list, err := tracer.NICs()
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	var a alone
	for _, n := range list {
		link, err := net.InterfaceByIndex(n.Index)
		if err != nil {
			continue // it is gone
		}
		nic := agentapi.NIC{Name: link.Name, Index: n.Index, Role: roles(n.Role), MTU: n.MTU, MAC: net.HardwareAddr(n.MAC[:]).String()}
		addrs, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("trace: addresses of %s: %w", link.Name, err)
		}
		for _, addr := range addrs {
			if p, err := netip.ParsePrefix(addr.String()); err == nil {
				nic.Addrs = append(nic.Addrs, p)
			}
		}
		a.nics = append(a.nics, nic)
	}
	return a, nil
}

// roles names the roles of a NIC, as the agent does.
func roles(r maps.NICRole) string {
	if r == maps.Internal|maps.External {
		return maps.Internal.String() + "+" + maps.External.String()
	}
	return r.String()
}

// Pods are not known by name; their addresses are found in the maps.
func (alone) Pods() []agentapi.Pod { return nil }

// Services are not known by name.
func (alone) Services() []agentapi.Service { return nil }

// NICs are those with programs.
func (a alone) NICs() []agentapi.NIC { return a.nics }
