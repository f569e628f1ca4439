// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/pkg/netns"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// addTimeout bounds the agent's part of an ADD: it may wait 10 s for its first
// sync.
const addTimeout = 15 * time.Second

// add is the verb ADD.
func add(args *cni.Args) error {
	c, err := parse(args, strict)
	if err != nil {
		return err
	}
	if err := c.checkIfName(); err != nil {
		return err
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
	gate, err := c.enter(flock.Shared)
	if err != nil {
		return err
	}
	defer gate.Close()
	plan, err := c.plan() // behind the gate: a block that is drained waits for those who were told of it
	if err != nil {
		return err
	}
	return c.attach(source, ns, plan)
}

// attach makes the interface and prints the result: every step or none. What
// was done is undone in reverse until the result is out.
func (c *conf) attach(source addresses, ns *netns.Namespace, plan agentapi.PodPlan) (err error) {
	undo := func(f func() error) {
		if err != nil {
			err = errors.Join(err, f())
		}
	}
	has, err := source.add(plan)
	if err != nil {
		return err
	}
	defer undo(source.del)

	link := c.link(ns, has)
	index, err := link.Create()
	if err != nil {
		return err
	}
	defer undo(func() error { return podlink.Remove(link.HostName) })

	leases := c.legStore(source)
	legs, err := c.addLegs(leases, ns, plan.Legs)
	if err != nil {
		return err
	}
	defer undo(func() error { return removeLegs(leases, legs) })

	endpoint, err := c.endpoint(index, has)
	if err != nil {
		return err
	}
	if err := c.agent(addTimeout).AddEndpoint(context.Background(), endpoint); err != nil {
		return fmt.Errorf("hand %s to the agent: %w", c.key, err)
	}
	defer undo(func() error { return c.forget(index, has, false) })

	result := c.result(has)
	c.addLegsTo(result, legs)
	return types.PrintResult(result, c.CNIVersion)
}

// openPod opens the pod's namespace, which must not be the node's.
func openPod(path string) (*netns.Namespace, error) {
	ns, err := netns.Open(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, netns.ErrNotNamespace) {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS: "+err.Error(), "")
	}
	if err != nil {
		return nil, err
	}
	own, err := ns.IsOwn()
	if err == nil && own {
		err = types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_NETNS: %s is the node's own namespace", path), "")
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

func (c *conf) link(ns *netns.Namespace, has leased) podlink.Link {
	return podlink.Link{
		HostName: c.key.Link(), Netns: ns, IfName: c.args.IfName,
		MTU: c.MTU, MAC: [6]byte(c.podMAC()), Addrs: has.addrs,
	}
}

func (c *conf) podMAC() net.HardwareAddr {
	if c.mac != nil {
		return c.mac
	}
	mac := podlink.PodMAC(c.key.Link())
	return mac[:]
}

func (c *conf) hostMAC() net.HardwareAddr {
	mac := podlink.HostMAC(c.key.Link())
	return mac[:]
}

// endpoint describes the interface to the agent.
func (c *conf) endpoint(index int, has leased) (agentapi.Endpoint, error) {
	pod, err := ipam.ParsePod(c.args.Args)
	if err != nil {
		return agentapi.Endpoint{}, err
	}
	ports := make([]agentapi.PortMapping, len(c.ports))
	for i, p := range c.ports {
		ports[i] = agentapi.PortMapping(p)
	}
	return agentapi.Endpoint{
		EndpointKey: c.endpointKey(), Ports: ports, Network: c.Name, Netns: c.args.Netns,
		HostIfName: c.key.Link(), HostIfIndex: index, HostMAC: c.hostMAC().String(),
		MAC: c.podMAC().String(), Addrs: has.addrs, Generation: has.generation,
		PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: pod.UID,
	}, nil
}

func (c *conf) endpointKey() agentapi.EndpointKey {
	return agentapi.EndpointKey{ContainerID: c.key.ContainerID, IfName: c.key.IfName}
}

func (c *conf) agent(timeout time.Duration) agentapi.Client {
	return agentapi.Client{Path: c.AgentSocket, Timeout: timeout}
}
