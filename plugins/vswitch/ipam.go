// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// addresses is who gives the leg its addresses.
type addresses interface {
	add(args *skel.CmdArgs) (*types100.Result, error)
	del(args *skel.CmdArgs) error
	check(args *skel.CmdArgs) error
	status(args *skel.CmdArgs) error
	gc(args *skel.CmdArgs) error
}

// addressesOf returns the IPAM of a configuration.
func addressesOf(c *conf) addresses { return executed{c.IPAM.Type} }

// executed is an IPAM plugin that is run as a program.
type executed struct{ plugin string }

func (e executed) add(args *skel.CmdArgs) (*types100.Result, error) {
	result, err := invoke.DelegateAdd(context.Background(), e.plugin, args.StdinData, nil)
	if err != nil {
		return nil, err
	}
	converted, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", e.plugin, err)
	}
	return converted, nil
}

func (e executed) del(args *skel.CmdArgs) error {
	return invoke.DelegateDel(context.Background(), e.plugin, args.StdinData, nil)
}

func (e executed) check(args *skel.CmdArgs) error {
	return invoke.DelegateCheck(context.Background(), e.plugin, args.StdinData, nil)
}

func (e executed) status(args *skel.CmdArgs) error {
	return invoke.DelegateStatus(context.Background(), e.plugin, args.StdinData, nil)
}

func (e executed) gc(args *skel.CmdArgs) error {
	return invoke.DelegateGC(context.Background(), e.plugin, args.StdinData, nil)
}
