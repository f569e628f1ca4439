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
// link may stay visible after the agent said that it removes it, where that is
// waited for.
const (
	delTimeout     = 3 * time.Second
	removalTimeout = time.Second
)

// del is the verb DEL. It goes on after an error, so that as much as possible
// is gone, and may be called any number of times: the interface goes by its name,
// also if the leases can't be read. A lease outlives what has its address: it is
// marked first, and released by the agent once the link is gone. Removing that
// takes 30 ms, and the end of the namespace often does it as soon.
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
	of, errLeases := leases.End(c.key)
	has, errFind := c.primary(source, of)
	errs := errors.Join(errLeases, errFind, c.delLegs(leases, of))
	handed, err := c.detach(has)
	if err != nil || handed {
		return errors.Join(errs, err)
	}
	return errors.Join(errs, source.del())
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

// detach takes the interface away: the agent's entries, then the link. Link and
// lease are handed to the agent if it is there and knows the lease by its
// generation; else the link is gone when it returns.
func (c *conf) detach(has leased) (handed bool, err error) {
	name := c.key.Link()
	index, _, err := podlink.Index(name)
	if err != nil {
		return false, err
	}
	handed = has.generation != 0
	if err := c.forget(index, has, handed); err != nil {
		// The agent reconciles when it is back: an endpoint without a link is none.
		note(err)
		return false, podlink.Remove(name)
	}
	if handed || index == 0 {
		return handed, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removalTimeout)
	defer cancel()
	if err := podlink.AwaitRemoval(ctx, name); err != nil {
		return false, podlink.Remove(name)
	}
	return false, nil
}

// forget tells the agent that the attachment ends. The agent takes its entries
// out, answers, and removes the link behind the answer; then it ends the lease, if
// that is handed to it.
func (c *conf) forget(index int, has leased, endsLease bool) error {
	return c.agent(delTimeout).DeleteEndpoint(context.Background(), agentapi.EndpointDelete{
		EndpointKey: c.endpointKey(), HostIfName: c.key.Link(), HostIfIndex: index,
		Addrs: has.addrs, Generation: has.generation, EndsLease: endsLease,
	})
}
