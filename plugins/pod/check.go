// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// check is the verb CHECK: lease, previous result, both ends of the interface,
// and the agent's view must agree. It returns all that it finds wrong.
func check(args *cni.Args) error {
	c, err := parse(args, strict)
	if err != nil {
		return err
	}
	if c.prev == nil {
		return fmt.Errorf("%w: CHECK without prevResult", ipam.ErrConf)
	}
	source, err := c.addresses(strict)
	if err != nil {
		return err
	}
	ns, err := openPod(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	has, err := source.check()
	if err != nil {
		return err
	}
	return errors.Join(c.checkPrevious(has), c.link(ns, has).Check(), c.checkAgent(has), c.checkLegs(c.legStore(source), ns))
}

// checkPrevious compares the lease with the result that the runtime kept.
func (c *conf) checkPrevious(has leased) error {
	var problems []error
	previous := c.previousAddrs()
	for _, a := range has.addrs {
		if !slices.Contains(previous, a) {
			problems = append(problems, fmt.Errorf("address %s of %s is not in the previous result", a, c.key))
		}
	}
	for _, a := range previous {
		if !slices.Contains(has.addrs, a) {
			problems = append(problems, fmt.Errorf("address %s of the previous result is not leased to %s", a, c.key))
		}
	}
	return errors.Join(problems...)
}

// previousAddrs returns the addresses that the previous result gives to our
// interface.
func (c *conf) previousAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, p := range c.previousOf(c.args.IfName) {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// previousOf returns the addresses that it gives to an interface of the pod.
func (c *conf) previousOf(ifName string) []netip.Prefix {
	var addrs []netip.Prefix
	for _, ip := range c.prev.IPs {
		if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(c.prev.Interfaces) {
			continue
		}
		i := c.prev.Interfaces[*ip.Interface]
		bits, _ := ip.Address.Mask.Size()
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok && i.Name == ifName && i.Sandbox != "" {
			addrs = append(addrs, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return addrs
}

func (c *conf) checkAgent(has leased) error {
	index, _, err := podlink.Index(c.key.Link())
	if err != nil {
		return err
	}
	endpoint, err := c.endpoint(index, has)
	if err != nil {
		return err
	}
	if err := c.agent(delTimeout).CheckEndpoint(context.Background(), endpoint); err != nil {
		return fmt.Errorf("agent's view of %s: %w", c.key, err)
	}
	return nil
}
