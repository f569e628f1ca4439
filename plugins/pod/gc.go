// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"

	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// gc is the verb GC: the agent's endpoints, links and leases of this network's
// attachments that are not valid any more. It goes on after errors. No ADD runs
// meanwhile.
func gc(args *cni.Args) error {
	c, err := parse(args, lenient)
	if err != nil {
		return err
	}
	valid, err := ipam.ValidAttachments(args.StdinData)
	if err != nil {
		return err
	}
	source, err := c.addresses(lenient)
	if err != nil {
		return err
	}
	gate, err := c.enter(flock.Exclusive)
	if err != nil {
		return err
	}
	defer gate.Close()

	leases := c.legStore(source)
	if valid, err = withLegs(leases, valid); err != nil {
		return err
	}
	keep := make([]agentapi.EndpointKey, len(valid))
	for i, k := range valid {
		keep[i] = agentapi.EndpointKey{ContainerID: k.ContainerID, IfName: k.IfName}
	}
	agentErr := c.agent(addTimeout).GC(context.Background(), c.Name, keep)
	if errors.Is(agentErr, agentapi.ErrUnavailable) {
		note(agentErr) // it reconciles when it is back
		agentErr = nil
	}
	return errors.Join(agentErr, source.gc(valid, func(k store.Key) error {
		return errors.Join(leg.Remove(leg.HostName(k.ContainerID, k.IfName)), podlink.Remove(k.Link()))
	}))
}
