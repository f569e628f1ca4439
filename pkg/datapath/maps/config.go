// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// Tunnel is the VXLAN device between nodes.
type Tunnel struct {
	IfIndex int // 0: no tunnel
	MTU     int // largest inner IP packet
	VNI     uint32
	Port    uint16
}

// Config owns the map config.
type Config struct{ Map *ebpf.Map }

// SetTunnel writes the tunnel.
func (m Config) SetTunnel(t Tunnel) error {
	value := objects.MapConfig{
		TunnelIfindex: uint32(t.IfIndex), TunnelMtu: uint32(t.MTU),
		TunnelVni: t.VNI, TunnelPort: objects.Port(t.Port),
	}
	if err := m.Map.Update(uint32(0), &value, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write tunnel: %w", err)
	}
	return nil
}

// Tunnel reads it back.
func (m Config) Tunnel() (Tunnel, error) {
	var value objects.MapConfig
	if err := m.Map.Lookup(uint32(0), &value); err != nil {
		return Tunnel{}, fmt.Errorf("read tunnel: %w", err)
	}
	return Tunnel{
		IfIndex: int(value.TunnelIfindex), MTU: int(value.TunnelMtu),
		VNI: value.TunnelVni, Port: objects.Port(value.TunnelPort),
	}, nil
}
