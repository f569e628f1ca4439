// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// The bridges that are the device's switches.
const (
	internalBridge = "pb-int"
	externalBridge = "pb-ext"
)

// conf is the plugin's configuration.
type conf struct {
	types.PluginConf
	// Switch is "internal" or "external".
	Switch string `json:"switch"`
	// MTU of the leg; the switch's if left out.
	MTU int `json:"mtu,omitempty"`
	// MAC address of the leg; a random one if left out.
	MAC string `json:"mac,omitempty"`
	// Probe asks first whether another machine has an address; true if left out.
	Probe *bool `json:"probe,omitempty"`
	// Guard drops what the leg says of addresses that aren't its own; if left out
	// it is on for pods, off for nodes, which answer for LoadBalancer addresses.
	Guard *bool `json:"guard,omitempty"`
	// RuntimeConfig holds what the runtime passes for declared capabilities.
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig,omitempty"`

	bridge string
	mac    [6]byte
	prev   *types100.Result
}

// parse reads and checks a configuration.
func parse(stdin []byte) (*conf, error) {
	c := &conf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode configuration", err.Error())
	}
	if err := c.check(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network %s", c.Name), err.Error())
	}
	if err := c.readPrevious(); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network %s: previous result", c.Name), err.Error())
	}
	return c, nil
}

// check fills in what follows from the configuration and returns what is wrong with it.
func (c *conf) check() error {
	switch strings.ToLower(c.Switch) {
	case "internal":
		c.bridge = internalBridge
	case "external":
		c.bridge = externalBridge
	default:
		return fmt.Errorf("switch %q is not internal or external", c.Switch)
	}
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		return fmt.Errorf("mtu %d is not between 1280 and 65535", c.MTU)
	}
	if c.MAC != "" {
		mac, err := net.ParseMAC(c.MAC)
		if err != nil || len(mac) != len(c.mac) || mac[0]&1 != 0 {
			return fmt.Errorf("mac %q is not an interface's address", c.MAC)
		}
		copy(c.mac[:], mac)
	}
	if c.IPAM.Type == "" {
		return errors.New("ipam.type is missing")
	}
	for name := range c.RuntimeConfig {
		return fmt.Errorf("capability %s is not supported", name)
	}
	return nil
}

// readPrevious reads the result of the plugins before this one in a chain.
func (c *conf) readPrevious() error {
	if c.RawPrevResult == nil {
		return nil
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return err
	}
	prev, err := types100.NewResultFromResult(c.PrevResult)
	c.prev = prev
	return err
}
