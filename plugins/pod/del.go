// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"time"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/plugins/cni"
)

// delTimeout bounds the agent's part of a DEL; removalTimeout is how long the
// link may stay visible after the agent said that it removes it.
const (
	delTimeout     = 3 * time.Second
	removalTimeout = time.Second
)

// del is the verb DEL. It goes on after an error, so that as much as possible
// is gone, and may be called any number of times.
func del(args *cni.Args) error {
	c, err := parse(args, lenient)
	if err != nil {
		return err
	}
	source, err := c.addresses(lenient)
	if err != nil {
		return err
	}
	leases := c.legStore(source)
	of, err := leases.OfContainer(c.key.ContainerID)
	if err != nil {
		return err
	}
	has, err := c.primary(source, of)
	if err != nil {
		return err
	}
	errLegs := c.delLegs(leases, of)
	removed, err := c.detach(has)
	// The lease ends while the agent removes the link: the address rests anyway.
	return errors.Join(errLegs, err, source.del(), removed())
}

// primary is what is known of the interface: by its lease, if that can be read.
func (c *conf) primary(source addresses, of []store.Lease) (leased, error) {
	for _, l := range of {
		if l.Key == c.key {
			return fromLease(l), nil
		}
	}
	return source.find()
}

// detach takes the interface away: the agent's entries, then the link. What it
// returns waits until that is gone.
func (c *conf) detach(has leased) (removed func() error, err error) {
	removed = func() error { return nil }
	name := c.key.Link()
	index, _, err := podlink.Index(name)
	if err != nil {
		return removed, err
	}
	if err := c.forget(index, has); err != nil {
		// The agent reconciles when it is back: an endpoint without a link is none.
		note(err)
		return removed, podlink.Remove(name)
	}
	if index == 0 {
		return removed, nil
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), removalTimeout)
		defer cancel()
		if err := podlink.AwaitRemoval(ctx, name); err != nil {
			return podlink.Remove(name)
		}
		return nil
	}, nil
}

// forget tells the agent that the attachment ends. The agent takes its entries
// out, answers, and removes the link behind the answer.
func (c *conf) forget(index int, has leased) error {
	return c.agent(delTimeout).DeleteEndpoint(context.Background(), agentapi.EndpointDelete{
		EndpointKey: c.endpointKey(), HostIfName: c.key.Link(), HostIfIndex: index,
		Addrs: has.addrs, Generation: has.generation,
	})
}
