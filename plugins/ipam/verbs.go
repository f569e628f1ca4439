// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/plugins/cni"
)

// warn tells of records set aside: the store repairs itself, the operator
// shall know.
func warn(err error) { fmt.Fprintln(os.Stderr, "patchbay-ipam:", err) }

func load(args *cni.Args, lenient bool) (*Network, error) {
	return Load(args.StdinData, args.Args, Mode{Lenient: lenient, Gateways: true}, store.Options{Damaged: warn})
}

func key(args *cni.Args) store.Key {
	return store.Key{ContainerID: args.ContainerID, IfName: args.IfName}
}

// Add gives an attachment its addresses, one of each set of ranges. Called
// again for one that has them, it returns the same.
func Add(args *cni.Args) (*types100.Result, error) { return AddBut(args, nil) }

// AddBut is Add that gives none of the addresses to be avoided: another machine was
// found to have them.
func AddBut(args *cni.Args, avoid []netip.Addr) (*types100.Result, error) {
	n, err := load(args, false)
	if err != nil {
		return nil, CNIError(err)
	}
	n.Avoid = avoid
	lease, err := n.Allocate(key(args), store.Lease{Netns: args.Netns})
	if err != nil {
		return nil, CNIError(err)
	}
	return n.result(lease), nil
}

// Allocate gives an attachment its addresses. What is set in record is kept
// with the lease.
func (n *Network) Allocate(key store.Key, record store.Lease) (store.Lease, error) {
	record.Key, record.Network = key, n.Name
	record.PodNamespace, record.PodName, record.PodUID = n.Pod.Namespace, n.Pod.Name, n.Pod.UID
	static := n.Static
	if n.durable {
		record.Owner = cmp.Or(n.Machine, key.ContainerID)
		static = maps.Clone(n.Static)
		for a, name := range static {
			if name == "" {
				static[a] = record.Owner
			}
		}
	}
	lease, err := n.Store.Allocate(store.Request{Pools: n.Pools, Requested: n.Requested, Rest: n.Rest, Lease: record, Static: static, Avoid: n.Avoid})
	if err != nil {
		return store.Lease{}, fmt.Errorf("allocate for %s in network %s: %w", key, n.Name, err)
	}
	return lease, nil
}

// result shapes a lease as CNI wants it: with the prefix lengths and gateways
// of the subnets.
func (n *Network) result(lease store.Lease) *types100.Result {
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Routes: n.Routes}
	for i, a := range lease.Addrs {
		subnet, _ := n.Pools[i].Subnet(a)
		ip := &types100.IPConfig{Address: net.IPNet{
			IP:   a.AsSlice(),
			Mask: net.CIDRMask(subnet.Prefix.Bits(), a.BitLen()),
		}}
		if subnet.Gateway.IsValid() {
			ip.Gateway = subnet.Gateway.AsSlice()
		}
		result.IPs = append(result.IPs, ip)
	}
	return result
}

// Del frees what an attachment has, by container and interface alone. An
// attachment that has nothing is no error.
func Del(args *cni.Args) error {
	n, err := load(args, true)
	if err != nil {
		return CNIError(err)
	}
	if _, _, err := n.Store.Release(key(args), 0); err != nil {
		return CNIError(fmt.Errorf("release %s: %w", key(args), err))
	}
	return nil
}

// Check returns an error if the attachment has no lease, or one of its
// interface's addresses in the previous result is not in it. What was given
// stays valid when its pool is disabled, changed or gone.
func Check(args *cni.Args) error {
	n, err := load(args, true)
	if err != nil {
		return CNIError(err)
	}
	lease, found, err := n.Store.Find(key(args))
	if err != nil {
		return CNIError(fmt.Errorf("find lease of %s: %w", key(args), err))
	}
	if !found {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("%s has no lease in %s", key(args), n.Store.Path()), "")
	}
	previous, err := previousAddrs(args)
	if err != nil {
		return CNIError(err)
	}
	for _, a := range lease.Addrs {
		if !previous[a] {
			return types.NewError(types.ErrInternal, fmt.Sprintf("leased address %s of %s is not in the previous result", a, key(args)), "")
		}
	}
	return nil
}

// previousAddrs returns the addresses of the previous result.
func previousAddrs(args *cni.Args) (map[netip.Addr]bool, error) {
	var conf struct {
		Previous *types100.Result `json:"prevResult"`
	}
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return nil, fmt.Errorf("%w: prevResult: %w", ErrConf, err)
	}
	if conf.Previous == nil {
		return nil, fmt.Errorf("%w: CHECK without prevResult", ErrConf)
	}
	addrs := map[netip.Addr]bool{}
	for _, ip := range conf.Previous.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs[a.Unmap()] = true
		}
	}
	return addrs, nil
}

// Status returns an error of code 50 if the store can't be used, or a set of
// ranges is exhausted and the configuration wants that reported. A busy store
// is no reason: whoever keeps it busy will end.
func Status(args *cni.Args) error {
	n, err := load(args, false)
	if err != nil {
		return CNIError(err)
	}
	return n.Status()
}

// Status is the verb on a loaded network.
func (n *Network) Status() error {
	for _, pool := range n.Pools {
		free, err := n.Store.Free(pool, n.Rest, 1)
		switch {
		case errors.Is(err, store.ErrBusy):
		case err != nil:
			return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("lease store: %v", err), "")
		case free == 0 && n.statusOnExhaustion:
			return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("no free address in pool %s %s", pool.Name, pool), "")
		}
	}
	return nil
}

// GC frees what the network's attachments have that are not valid any more.
func GC(args *cni.Args) error {
	n, err := load(args, true)
	if err != nil {
		return CNIError(err)
	}
	valid, err := ValidAttachments(n.stdin)
	if err != nil {
		return CNIError(err)
	}
	return CNIError(n.Store.GC(n.Name, valid, func(store.Lease) error { return nil }))
}
