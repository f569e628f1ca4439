// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"

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

// gateTimeout is how long an ADD waits for a GC, and the other way round.
const gateTimeout = 10 * time.Second

// enter passes the gate that lets any number of ADDs in, shared, or one GC: a
// lease that is being made is in no list of valid attachments. Closing the file
// leaves the gate. The error has CNI's code 11 if the wait was in vain.
func (c *conf) enter(mode flock.Mode) (*os.File, error) {
	path := filepath.Join(filepath.Dir(c.AgentSocket), "cni.lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open lock %s: %w", path, err)
	}
	file, err := flock.Take(path, mode, gateTimeout)
	if errors.Is(err, flock.ErrTimeout) {
		return nil, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return file, err
}
