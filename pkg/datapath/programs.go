// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Programs returns what hangs on an interface of this network namespace, ours
// and others', as "hook name" in the order that packets meet them; read from the
// kernel, whoever attached it. The names of others' need CAP_SYS_ADMIN.
func (d *Datapath) Programs(index int) ([]string, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("find link %d: %w", index, err)
	}
	own := d.ownNames()
	var out []string
	if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
		name, err := own.of(ebpf.ProgramID(xdp.ProgId))
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
		names, err := own.hooked(l, hook.tcx, hook.parent)
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
func (n programNames) hooked(l netlink.Link, at ebpf.AttachType, parent uint32) ([]string, error) {
	var names []string
	attached, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return nil, err
	}
	if attached != nil {
		for _, p := range attached.Programs {
			name, err := n.of(p.ID)
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

// programNames are names of programs by the kernel's ids.
type programNames map[ebpf.ProgramID]string

// ownNames are those of the programs loaded here, and of their copies while
// somebody looks at what is dropped.
func (d *Datapath) ownNames() programNames {
	names := programNames{}
	note := func(programs map[string]*ebpf.Program) {
		for name, p := range programs {
			info, err := p.Info()
			if err != nil {
				continue // closed meanwhile
			}
			if id, ok := info.ID(); ok {
				names[id] = name
			}
		}
	}
	note(d.set.Programs)
	if watched := d.lost.instead.Load(); watched != nil {
		note(watched.Programs)
	}
	return names
}

// of returns a program's name. One of others', which may not be looked at
// without CAP_SYS_ADMIN, and one that is gone by now go by their number.
func (n programNames) of(id ebpf.ProgramID) (string, error) {
	if name, ok := n[id]; ok {
		return name, nil
	}
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("program %d", id), nil
	}
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	return info.Name, nil
}
