// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// Bounds of the MTU: what IPv4 asks of a link and what its length field holds.
const (
	defaultMTU = 1500
	minMTU     = 576
	maxMTU     = 65535
)

// conf is the plugin's configuration with the call that it came by.
type conf struct {
	types.NetConf
	MTU           int                        `json:"mtu"`
	AgentSocket   string                     `json:"agentSocket"`
	ReadyFile     string                     `json:"readyFile"`
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`

	args *cni.Args
	key  store.Key
	prev *types100.Result

	mac   net.HardwareAddr // asked for by the runtime; nil: derived
	ports []store.PortMapping
}

// strictness is how a configuration is read: to make something, all of it must
// be understood; to take something away, as little as possible.
type strictness bool

const (
	strict  strictness = true
	lenient strictness = false
)

// parse reads the configuration. Its errors match ipam.ErrConf.
func parse(args *cni.Args, s strictness) (*conf, error) {
	c := &conf{args: args, key: store.Key{ContainerID: args.ContainerID, IfName: args.IfName}}
	if err := json.Unmarshal(args.StdinData, c); err != nil && s == strict {
		return nil, fmt.Errorf("%w: %w", ipam.ErrConf, err)
	}
	c.defaults()
	if s == lenient {
		return c, nil
	}
	for _, check := range []func() error{c.checkKeys, c.checkCapabilities, c.checkMTU, c.checkPaths, c.parseMAC, c.parsePorts, c.parsePrevious} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *conf) defaults() {
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.AgentSocket == "" {
		c.AgentSocket = agentapi.DefaultSocket
	}
	if c.ReadyFile == "" {
		c.ReadyFile = filepath.Join(filepath.Dir(c.AgentSocket), filepath.Base(agentapi.DefaultReadyFile))
	}
}

// checkKeys refuses keys that nobody would read. libcni adds keys below
// cni.dev/.
func (c *conf) checkKeys() error {
	known := []string{
		"cniVersion", "name", "type", "capabilities", "runtimeConfig", "args", "prevResult", "dns",
		"mtu", "agentSocket", "readyFile", "ipam",
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(c.args.StdinData, &keys); err != nil {
		return fmt.Errorf("%w: %w", ipam.ErrConf, err)
	}
	for key := range keys {
		if !slices.Contains(known, key) && !strings.HasPrefix(key, "cni.dev/") {
			return fmt.Errorf("%w: unknown key %q", ipam.ErrConf, key)
		}
	}
	return nil
}

// checkCapabilities refuses what the runtime would rely on in vain.
func (c *conf) checkCapabilities() error {
	known := []string{"ips", "mac", "portMappings"}
	wanted := map[string]bool{}
	for name, on := range c.Capabilities {
		wanted[name] = on
	}
	for name := range c.RuntimeConfig {
		wanted[name] = true
	}
	for name, on := range wanted {
		if on && !slices.Contains(known, name) {
			return fmt.Errorf("%w: capability %q is not supported; chain a plugin that has it", ipam.ErrConf, name)
		}
	}
	return nil
}

func (c *conf) checkMTU() error {
	if c.MTU < minMTU || c.MTU > maxMTU {
		return fmt.Errorf("%w: mtu %d is not between %d and %d", ipam.ErrConf, c.MTU, minMTU, maxMTU)
	}
	return nil
}

func (c *conf) checkPaths() error {
	for _, p := range []struct{ name, path string }{{"agentSocket", c.AgentSocket}, {"readyFile", c.ReadyFile}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%w: %s %q is not an absolute path", ipam.ErrConf, p.name, p.path)
		}
	}
	if c.IPAM.Type == "" {
		return fmt.Errorf("%w: ipam has no type", ipam.ErrConf)
	}
	return nil
}

func (c *conf) parseMAC() error {
	raw, ok := c.RuntimeConfig["mac"]
	if !ok {
		return nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("%w: mac: %w", ipam.ErrConf, err)
	}
	if text == "" {
		return nil
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%w: mac %q is not the address of one Ethernet interface", ipam.ErrConf, text)
	}
	c.mac = mac
	return nil
}

// parsePrevious reads the result of the plugins that ran before.
func (c *conf) parsePrevious() error {
	if c.RawPrevResult == nil {
		return nil
	}
	if err := version.ParsePrevResult(&c.NetConf); err != nil {
		return fmt.Errorf("%w: %w", ipam.ErrConf, err)
	}
	prev, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return fmt.Errorf("%w: prevResult: %w", ipam.ErrConf, err)
	}
	c.prev = prev
	return nil
}

// checkIfName refuses an interface that an earlier plugin of the chain made.
func (c *conf) checkIfName() error {
	if c.prev == nil {
		return nil
	}
	for _, i := range c.prev.Interfaces {
		if i.Sandbox == c.args.Netns && i.Name == c.args.IfName {
			return fmt.Errorf("%w: interface %s was made by a plugin before this one", ipam.ErrConf, i.Name)
		}
	}
	return nil
}

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
