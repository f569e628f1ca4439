// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"fmt"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/delegate"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// addresses is who gives the leg its addresses.
type addresses interface {
	// add leases addresses, none of those that another machine was found to have.
	add(args *cni.Args, avoid []netip.Addr) (*types100.Result, error)
	del(args *cni.Args) error
	check(args *cni.Args) error
	status(args *cni.Args) error
	gc(args *cni.Args) error
}

// addressesOf returns the IPAM of a configuration: ours in this process, any other as a program.
func addressesOf(c *conf) addresses {
	if c.IPAM.Type == ipam.Type {
		return inProcess{}
	}
	return executed{c.IPAM.Type}
}

// inProcess is patchbay-ipam without a program started.
type inProcess struct{}

func (inProcess) add(args *cni.Args, avoid []netip.Addr) (*types100.Result, error) {
	return ipam.AddBut(args, avoid)
}
func (inProcess) del(args *cni.Args) error    { return ipam.Del(args) }
func (inProcess) check(args *cni.Args) error  { return ipam.Check(args) }
func (inProcess) status(args *cni.Args) error { return ipam.Status(args) }
func (inProcess) gc(args *cni.Args) error     { return ipam.GC(args) }

// executed is an IPAM plugin that is run as a program.
type executed struct{ plugin string }

func (e executed) add(args *cni.Args, avoid []netip.Addr) (*types100.Result, error) {
	if len(avoid) > 0 {
		return nil, fmt.Errorf("%w: %v, given by %s", leg.ErrInUse, avoid, e.plugin)
	}
	return delegate.Add(e.plugin, args.StdinData)
}

func (e executed) del(args *cni.Args) error {
	return delegate.Run("DEL", e.plugin, args.StdinData)
}

func (e executed) check(args *cni.Args) error {
	return delegate.Run("CHECK", e.plugin, args.StdinData)
}

func (e executed) status(args *cni.Args) error {
	return delegate.Run("STATUS", e.plugin, args.StdinData)
}

func (e executed) gc(args *cni.Args) error {
	return delegate.Run("GC", e.plugin, args.StdinData)
}
