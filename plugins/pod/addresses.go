// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/podlink"
	"github.com/patchbay-net/patchbay/plugins/delegate"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// leased is what an attachment has of IPAM.
type leased struct {
	addrs      []netip.Addr
	generation uint64 // zero if the IPAM plugin has none
	dns        types.DNS
}

// addresses is where a pod's addresses come from.
type addresses interface {
	add(agentapi.PodPlan) (leased, error)
	del() error
	find() (leased, error) // what is known without a previous result; all zero if nothing
	check() (leased, error)
	status() error
	gc(valid []store.Key, end func(store.Key) error) error
}

// addresses returns the IPAM of the configuration: our own in process, any
// other by execution.
func (c *conf) addresses(s strictness) (addresses, error) {
	if c.IPAM.Type != ipam.Type {
		return &delegated{c}, nil
	}
	n, err := ipam.Load(c.args.StdinData, c.args.Args, ipam.Mode{Lenient: s == lenient}, store.Options{InUse: podlink.Addrs, Damaged: note})
	if err != nil {
		return nil, err
	}
	return &inProcess{c, n}, nil
}

// inProcess is patchbay-ipam without a process of its own.
type inProcess struct {
	c *conf
	n *ipam.Network
}

func (p *inProcess) add(plan agentapi.PodPlan) (leased, error) {
	if err := p.use(plan); err != nil {
		return leased{}, err
	}
	mac := p.c.podMAC()
	lease, err := p.n.Allocate(p.c.key, store.Lease{Netns: p.c.args.Netns, MAC: mac.String(), Ports: p.c.ports})
	return fromLease(lease), err
}

func fromLease(l store.Lease) leased { return leased{addrs: l.Addrs, generation: l.Generation} }

func (p *inProcess) del() error {
	_, _, err := p.n.Store.Release(p.c.key, 0)
	return err
}

func (p *inProcess) find() (leased, error) {
	lease, _, err := p.n.Store.Find(p.c.key)
	return fromLease(lease), err
}

func (p *inProcess) check() (leased, error) {
	lease, found, err := p.n.Store.Find(p.c.key)
	if err == nil && !found {
		err = types.NewError(types.ErrUnknownContainer, fmt.Sprintf("%s has no lease in %s", p.c.key, p.n.Store.Path()), "")
	}
	return fromLease(lease), err
}

func (p *inProcess) status() error { return p.n.Status() }

func (p *inProcess) gc(valid []store.Key, end func(store.Key) error) error {
	return p.n.Store.GC(p.n.Name, valid, func(l store.Lease) error { return end(l.Key) })
}

// delegated is another IPAM plugin, executed with our own input.
type delegated struct{ c *conf }

func (d *delegated) add(agentapi.PodPlan) (leased, error) {
	result, err := d.execAdd()
	if err != nil {
		return leased{}, fmt.Errorf("ipam %s: %w", d.c.IPAM.Type, err)
	}
	if len(result.IPs) == 0 {
		return leased{}, errors.Join(fmt.Errorf("ipam %s gave no address", d.c.IPAM.Type), d.del())
	}
	return leased{addrs: addrsOf(result), dns: result.DNS}, nil
}

// execAdd calls ADD. One that fails is undone and tried once more: an IPAM
// plugin that was killed, or whose caller was, may refuse to give again what it
// gave already.
func (d *delegated) execAdd() (*types100.Result, error) {
	result, err := delegate.Add(d.c.IPAM.Type, d.c.args.StdinData)
	if err == nil {
		return result, nil
	}
	if undo := d.del(); undo != nil {
		return nil, errors.Join(err, undo)
	}
	return delegate.Add(d.c.IPAM.Type, d.c.args.StdinData)
}

func addrsOf(result *types100.Result) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

func (d *delegated) del() error {
	return d.run("DEL")
}

func (d *delegated) find() (leased, error) { return leased{}, nil }

// check lets the plugin check, and takes the addresses of our interface from
// the previous result.
func (d *delegated) check() (leased, error) {
	if err := d.run("CHECK"); err != nil {
		return leased{}, err
	}
	return leased{addrs: d.c.previousAddrs()}, nil
}

func (d *delegated) status() error { return d.run("STATUS") }

func (d *delegated) gc([]store.Key, func(store.Key) error) error { return d.run("GC") }

func (d *delegated) run(verb string) error {
	return delegate.Run(verb, d.c.IPAM.Type, d.c.args.StdinData)
}
