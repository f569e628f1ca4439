// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// portMapping is a host port as the runtime gives it.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// parsePorts reads the host ports that lead to the pod. Ports without a host
// port are not ours to care for.
func (c *conf) parsePorts() error {
	raw, ok := c.RuntimeConfig["portMappings"]
	if !ok {
		return nil
	}
	var list []portMapping
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("%w: portMappings: %w", ipam.ErrConf, err)
	}
	for _, m := range list {
		if m.HostPort == 0 {
			continue
		}
		port, err := m.parse()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.ports, port.Overlaps) {
			return fmt.Errorf("%w: host port %s %d is mapped twice", ipam.ErrConf, port.Protocol, port.HostPort)
		}
		c.ports = append(c.ports, port)
	}
	if len(c.ports) > 0 && c.IPAM.Type != ipam.Type {
		return fmt.Errorf("%w: portMappings need ipam %s, which keeps them, not %s", ipam.ErrConf, ipam.Type, c.IPAM.Type)
	}
	return nil
}

// parse checks one mapping. No protocol means TCP, and an unspecified address
// every address of the node.
func (m portMapping) parse() (store.PortMapping, error) {
	port := store.PortMapping{Protocol: strings.ToLower(cmp.Or(m.Protocol, "tcp"))}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, port.Protocol) {
		return port, fmt.Errorf("%w: host port %d has unknown protocol %q", ipam.ErrConf, m.HostPort, m.Protocol)
	}
	for _, p := range []struct {
		name  string
		given int
		put   *uint16
	}{{"host", m.HostPort, &port.HostPort}, {"container", m.ContainerPort, &port.ContainerPort}} {
		if p.given < 1 || p.given > 65535 {
			return port, fmt.Errorf("%w: %s port %d is not between 1 and 65535", ipam.ErrConf, p.name, p.given)
		}
		*p.put = uint16(p.given)
	}
	if m.HostIP == "" {
		return port, nil
	}
	addr, err := netip.ParseAddr(m.HostIP)
	if err != nil {
		return port, fmt.Errorf("%w: host port %d: address %q: %w", ipam.ErrConf, m.HostPort, m.HostIP, err)
	}
	if !addr.IsUnspecified() {
		port.HostIP = addr.Unmap()
	}
	return port, nil
}
