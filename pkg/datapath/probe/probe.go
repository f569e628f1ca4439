// SPDX-License-Identifier: Apache-2.0

// Package probe asks the kernel for what the datapath is built on. It attaches
// nothing and leaves nothing.
package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// Feature is one thing that a kernel has or hasn't.
type Feature struct {
	Name    string
	Why     string // what it is for
	Needed  bool   // nothing works without it
	Missing error  // nil: it is there
}

// Features asks for all.
func Features() []Feature {
	var out []Feature
	add := func(name, why string, needed bool, err error) {
		out = append(out, Feature{Name: name, Why: why, Needed: needed, Missing: err})
	}
	for _, p := range []struct {
		typ ebpf.ProgramType
		why string
	}{
		{ebpf.SchedCLS, "the programs at NICs and pods"},
		{ebpf.CGroupSockAddr, "Services at the socket"},
	} {
		add("programs of type "+p.typ.String(), p.why, true, features.HaveProgramType(p.typ))
	}
	for _, m := range []struct {
		typ ebpf.MapType
		why string
	}{
		{ebpf.LPMTrie, "routes and source ranges"},
		{ebpf.LRUHash, "flows that nobody has answered yet"},
		{ebpf.SkStorage, "UDP sockets' backends"},
	} {
		add("maps of type "+m.typ.String(), m.why, true, features.HaveMapType(m.typ))
	}
	add("maps of type "+ebpf.RingBuf.String(), "dropped packets in captures", false, features.HaveMapType(ebpf.RingBuf))
	for _, h := range []struct {
		program ebpf.ProgramType
		helper  asm.BuiltinFunc
		why     string
	}{
		{ebpf.SchedCLS, asm.FnRedirectPeer, "delivery to pods"},
		{ebpf.SchedCLS, asm.FnRedirectNeigh, "native routing to other nodes"},
		{ebpf.SchedCLS, asm.FnSkbSetTunnelKey, "the tunnel to other nodes"},
		{ebpf.SchedCLS, asm.FnKtimeGetCoarseNs, "time"},
		{ebpf.CGroupSockAddr, asm.FnGetNetnsCookie, "client affinity at the socket"},
	} {
		add(fmt.Sprintf("helper %s", h.helper), h.why, true, features.HaveProgramHelper(h.program, h.helper))
	}
	add("tcx", "attaching to NICs without a gap; classic filters do, too", false, tcx())
	return out
}

// nowhere is the index of a device that isn't.
const nowhere = 1 << 30

// tcx asks whether links to NICs can be made, by making one where none can be.
func tcx() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "probe", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: nowhere, Program: p, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return nil
}
