// SPDX-License-Identifier: Apache-2.0

// Package vswitch is the CNI plugin patchbay-vswitch: it gives a node, a VM or a
// pod a leg on one of the device's virtual switches, which patchbayd in the role
// of the device keeps. It is a leg and no more: what is sent on it is an
// ordinary machine's on that network.
//
//	{"cniVersion": "1.1.0", "name": "outside", "type": "patchbay-vswitch", "switch": "external",
//	 "ipam": {"type": "patchbay-ipam", "leases": "/var/lib/patchbay/nodeleases.db",
//	          "ranges": [[{"subnet": "192.168.50.0/24", "rangeStart": "192.168.50.10", "rangeEnd": "192.168.50.19"}]]}}
package vswitch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// Main runs the plugin.
func Main() {
	cni.Main(Verbs(), "patchbay-vswitch: a leg on a virtual switch")
}

// Verbs returns the plugin's verbs.
func Verbs() cni.Verbs {
	return cni.Verbs{Add: add, Del: del, Check: check, GC: gc, Status: status}
}

// add leases addresses, makes the leg, and undoes in reverse what it has done if it can't do all.
func add(args *cni.Args) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := bridgeExists(c); err != nil {
		return err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	source := addressesOf(c)
	var avoid []netip.Addr
	for {
		err := attach(c, args, ns, source, avoid)
		if err == nil {
			return nil
		}
		if undo := source.del(args); undo != nil {
			return legError(c, errors.Join(err, fmt.Errorf("give addresses back: %w", undo)))
		}
		taken, ok := errors.AsType[*leg.InUseError](err)
		if !ok || len(avoid) == maxTaken || slices.Contains(avoid, taken.Addr) {
			return legError(c, err)
		}
		fmt.Fprintln(os.Stderr, "patchbay-vswitch:", err)
		avoid = append(avoid, taken.Addr)
	}
}

// maxTaken bounds how many addresses that others have are passed over.
const maxTaken = 8

// attach leases addresses, makes the leg and prints the result. An error leaves
// the lease.
func attach(c *conf, args *cni.Args, ns *os.File, source addresses, avoid []netip.Addr) error {
	leased, err := source.add(args, avoid)
	if err != nil {
		return err
	}
	l, err := newLeg(c, args, ns, leased)
	if err != nil {
		return err
	}
	l.Probe, l.Guard = c.Probe == nil || *c.Probe, guarded(c, args)
	ends, err := leg.Create(l)
	if err != nil {
		return err
	}
	return types.PrintResult(result(c, args, l, ends, leased), c.CNIVersion)
}

// guarded tells whether the leg may speak for its own addresses only.
func guarded(c *conf, args *cni.Args) bool {
	if c.Guard != nil {
		return *c.Guard
	}
	pod, err := ipam.ParsePod(args.Args)
	return err == nil && pod.UID != "" // only kubelet's pods have one
}

// del removes the leg and frees its addresses, whatever of them is there.
func del(args *cni.Args) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return errors.Join(leg.Remove(leg.HostName(args.ContainerID, args.IfName)), addressesOf(c).del(args))
}

// check compares the leg with the result of its ADD.
func check(args *cni.Args) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if c.prev == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network %s: check", c.Name), "the previous result is missing")
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := addressesOf(c).check(args); err != nil {
		return err
	}
	l, err := newLeg(c, args, ns, own(c.prev, args))
	if err != nil {
		return err
	}
	return legError(c, leg.Check(l))
}

// status tells whether an ADD could succeed.
func status(args *cni.Args) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := leg.BridgeExists(c.bridge); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("network %s", c.Name), err.Error())
	}
	return addressesOf(c).status(args)
}

// gc removes the legs of this network that are no longer valid, then their leases.
func gc(args *cni.Args) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	valid, err := ipam.ValidAttachments(args.StdinData)
	if err != nil {
		return ipam.CNIError(err)
	}
	keep := make(map[string]bool, len(valid))
	for _, a := range valid {
		keep[leg.HostName(a.ContainerID, a.IfName)] = true
	}
	return errors.Join(leg.RemoveOthers(c.Name, keep), addressesOf(c).gc(args))
}

// bridgeExists returns CNI's code for a configuration that names a switch which isn't there.
func bridgeExists(c *conf) error { return legError(c, leg.BridgeExists(c.bridge)) }

// legError gives an error of a leg its CNI code.
func legError(c *conf, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*types.Error](err); ok {
		return known
	}
	code := types.ErrInternal
	switch {
	case errors.Is(err, leg.ErrNoBridge):
		code = types.ErrInvalidNetworkConfig
	case errors.Is(err, leg.ErrInUse):
		code = types.ErrTryAgainLater
	}
	return types.NewError(code, fmt.Sprintf("network %s", c.Name), err.Error())
}

// openNetns opens the namespace to plug in, which must not be the switches' own.
func openNetns(path string) (*os.File, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "open network namespace", err.Error())
	}
	var there, here unix.Stat_t
	var fs unix.Statfs_t
	err = errors.Join(unix.Fstat(int(ns.Fd()), &there), unix.Stat("/proc/thread-self/ns/net", &here), unix.Fstatfs(int(ns.Fd()), &fs))
	if err == nil && fs.Type != unix.NSFS_MAGIC {
		err = errors.New("not a namespace")
	}
	if err == nil && there.Ino == here.Ino && there.Dev == here.Dev {
		err = errors.New("it is the namespace of the switches")
	}
	if err != nil {
		ns.Close()
		return nil, types.NewError(types.ErrInvalidNetNS, "network namespace "+path, err.Error())
	}
	return ns, nil
}

// newLeg is the leg that goes with the addresses of a result.
func newLeg(c *conf, args *cni.Args, ns *os.File, r *types100.Result) (leg.Leg, error) {
	l := leg.Leg{
		HostName: leg.HostName(args.ContainerID, args.IfName), Network: c.Name, Bridge: c.bridge,
		Netns: int(ns.Fd()), IfName: args.IfName, MTU: c.MTU, MAC: c.mac,
	}
	for _, ip := range r.IPs {
		p, err := toPrefix(ip.Address)
		if err != nil {
			return l, err
		}
		l.Addrs = append(l.Addrs, p)
	}
	for _, route := range r.Routes {
		dst, err := toPrefix(route.Dst)
		if err != nil {
			return l, err
		}
		via, _ := netip.AddrFromSlice(route.GW)
		if !via.IsValid() {
			via = gatewayOf(r, dst)
		}
		l.Routes = append(l.Routes, leg.Route{Dst: dst.Masked(), Via: via.Unmap()})
	}
	return l, nil
}

// gatewayOf returns the gateway of the address that is of a route's family.
func gatewayOf(r *types100.Result, dst netip.Prefix) netip.Addr {
	for _, ip := range r.IPs {
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok && gw.Unmap().Is4() == dst.Addr().Is4() {
			return gw
		}
	}
	return netip.Addr{}
}

func toPrefix(n net.IPNet) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, fmt.Errorf("address %s from the IPAM plugin", n.String())
	}
	return netip.PrefixFrom(addr.Unmap(), bits), nil
}
