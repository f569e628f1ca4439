// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// Programs returns what hangs on an interface of this network namespace, ours
// and others', as "hook name" in the order that packets meet them; read from the
// kernel, whoever attached it.
func Programs(index int) ([]string, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("find link %d: %w", index, err)
	}
	var out []string
	if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
		name, err := programName(ebpf.ProgramID(xdp.ProgId))
		if err != nil {
			return nil, err
		}
		out = append(out, "xdp "+name)
	}
	for _, hook := range []struct {
		name   string
		tcx    ebpf.AttachType
		parent uint32
	}{
		{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
		{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
	} {
		names, err := hooked(l, hook.tcx, hook.parent)
		if err != nil {
			return nil, fmt.Errorf("programs at %s of %s: %w", hook.name, l.Attrs().Name, err)
		}
		for _, name := range names {
			out = append(out, hook.name+" "+name)
		}
	}
	return out, nil
}

// hooked lists the programs of one direction: tcx, then tc filters.
func hooked(l netlink.Link, at ebpf.AttachType, parent uint32) ([]string, error) {
	var names []string
	attached, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return nil, err
	}
	if attached != nil {
		for _, p := range attached.Programs {
			name, err := programName(p.ID)
			if err != nil {
				return nil, err
			}
			names = append(names, name)
		}
	}
	filters, err := netlink.FilterList(l, parent)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && !slices.Contains(names, b.Name) {
			names = append(names, b.Name)
		}
	}
	return names, nil
}

// programName returns a program's name; one that is gone by now has none.
func programName(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program %d", id), nil
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	return info.Name, nil
}
