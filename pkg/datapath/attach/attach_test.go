// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/attach"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// program passes everything; its name tells it from others.
func program(t *testing.T, name string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func id(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// wired returns a namespace with a device eth0.
func wired(t *testing.T) *netlab.Namespace {
	t.Helper()
	netlab.Require(t)
	ns := netlab.New(t)
	netlab.Wire(t, ns, "eth0", netlab.New(t), "eth0")
	return ns
}

func TestFilters(t *testing.T) {
	ns := wired(t)
	index := ns.Index(t, "eth0")
	var f *attach.Filters
	if err := ns.Do(func() (err error) { f, err = attach.NewFilters(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	show := func(direction string) string {
		return ns.Exec(t, "tc", "filter", "show", "dev", "eth0", direction)
	}
	for _, name := range []string{"first", "second"} {
		p := program(t, name)
		for _, egress := range []bool{false, true} {
			if err := f.Attach(attach.Hook{IfIndex: index, Egress: egress}, p); err != nil {
				t.Fatal(err)
			}
		}
		for _, direction := range []string{"ingress", "egress"} {
			out := show(direction)
			if !strings.Contains(out, fmt.Sprintf("id %d ", id(t, p))) || strings.Count(out, "direct-action") != 1 {
				t.Errorf("%s: want only program %d, got %s", direction, id(t, p), out)
			}
		}
	}
	// Somebody else's filter keeps its qdisc.
	other := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 7, Protocol: unix.ETH_P_ALL,
		},
		Fd: program(t, "other").FD(), Name: "other", DirectAction: true,
	}
	if err := ns.Netlink(t).FilterAdd(other); err != nil {
		t.Fatal(err)
	}
	if err := f.Detach(index); err != nil {
		t.Fatal(err)
	}
	if out := show("ingress"); strings.Contains(out, "patchbay") || !strings.Contains(out, "other") {
		t.Errorf("detached: want only the other filter, got %s", out)
	}
	if err := ns.Netlink(t).FilterDel(other); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Detach(index); err != nil {
			t.Fatal(err)
		}
	}
	if out := ns.Exec(t, "tc", "qdisc", "show", "dev", "eth0"); strings.Contains(out, "clsact") {
		t.Errorf("want no qdisc left, got %s", out)
	}
	if err := f.Detach(9999); err != nil {
		t.Errorf("detach from no device: %v", err)
	}
	if err := f.Attach(attach.Hook{IfIndex: 9999}, program(t, "p")); !attach.NoDevice(err) {
		t.Errorf("attach to no device: want NoDevice, got %v", err)
	}
}

// TestFiltersBesideOthers attaches where another tool has its filter in the usual
// place: both stay, ours first.
func TestFiltersBesideOthers(t *testing.T) {
	ns := wired(t)
	index := ns.Index(t, "eth0")
	var f *attach.Filters
	if err := ns.Do(func() (err error) { f, err = attach.NewFilters(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	ns.Exec(t, "tc", "qdisc", "add", "dev", "eth0", "clsact")
	other := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: program(t, "other").FD(), Name: "other", DirectAction: true,
	}
	if err := ns.Netlink(t).FilterAdd(other); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		if err := f.Attach(attach.Hook{IfIndex: index}, program(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	out := ns.Exec(t, "tc", "filter", "show", "dev", "eth0", "ingress")
	if own, others := strings.Index(out, "patchbay"), strings.Index(out, "other"); own < 0 || others < own || strings.Count(out, "patchbay") != 1 {
		t.Errorf("want ours before the other, got %s", out)
	}
	if err := f.Detach(index); err != nil {
		t.Fatal(err)
	}
	if out := ns.Exec(t, "tc", "filter", "show", "dev", "eth0", "ingress"); strings.Contains(out, "patchbay") || !strings.Contains(out, "other") {
		t.Errorf("detached: want the other filter alone, got %s", out)
	}
}

func TestTCX(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		ns := wired(t)
		pin := filepath.Join("/sys/fs/bpf", "eth0-in")
		read := func() (link.ID, ebpf.ProgramID) {
			t.Helper()
			l, err := link.LoadPinnedLink(pin, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			return info.ID, info.Program
		}
		tcx := func(hook attach.Hook, p *ebpf.Program) {
			t.Helper()
			err := ns.Do(func() error { return attach.TCX(pin, hook, p) })
			if errors.Is(err, ebpf.ErrNotSupported) {
				t.Skip("the kernel has no tcx, which is of 6.6")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		hook := attach.Hook{IfIndex: ns.Index(t, "eth0")}
		first, second := program(t, "first"), program(t, "second")
		tcx(hook, first)
		before, _ := read()
		tcx(hook, second)
		if after, prog := read(); after != before || prog != id(t, second) {
			t.Errorf("same hook: want link %d with program %d, got %d with %d", before, id(t, second), after, prog)
		}
		if err := attach.Replace(pin, first); err != nil {
			t.Fatal(err)
		}
		if after, prog := read(); after != before || prog != id(t, first) {
			t.Errorf("replaced: want link %d with program %d, got %d with %d", before, id(t, first), after, prog)
		}
		hook.Egress = true
		tcx(hook, second)
		if after, _ := read(); after == before {
			t.Error("another hook: want another link")
		}
		// The device goes: its link is unpinned, and another takes the name.
		ns.Exec(t, "ip", "link", "del", "eth0")
		if err := attach.Replace(pin, first); err != nil {
			t.Fatal(err)
		}
		if _, err := link.LoadPinnedLink(pin, nil); err == nil {
			t.Error("link of a device that is gone: want unpinned")
		}
		for range 2 {
			if err := attach.Detach(pin); err != nil {
				t.Fatal(err)
			}
		}
	})
}
