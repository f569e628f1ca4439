// SPDX-License-Identifier: Apache-2.0

package losses

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The tables that the copies work with beside the datapath's own. Both arrays
// have one value with a part for each CPU.
const (
	tableReasons = "lost_reasons"
	tableHeads   = "lost_heads"
	tableRing    = "lost_packets"
	tableDrops   = "drops"
)

// A record: what is known of the packet, and its first bytes.
const (
	recordTime, recordReason, recordLink    = 0, 8, 12
	recordLength, recordVerdict, recordHook = 16, 20, 24
	recordData                              = 32
	// Bytes is how much of a packet is kept.
	Bytes      = 256
	recordSize = recordData + Bytes
)

// Offsets in struct __sk_buff.
const skbLength, skbIfindex = 0, 40

// watch makes a program note the packets that it drops. A new beginning keeps
// the packet's first bytes, calls what was the program, and sends the bytes off
// if a drop was counted meanwhile. The look-up of the counter, which tells the
// reason, goes through a function that notes it: nothing else changes.
func watch(ps *ebpf.ProgramSpec, hook int32, cpus int32) {
	fn := btf.FuncMetadata(&ps.Instructions[0])
	line := ps.Instructions[0].Source()
	inner := append(asm.Instructions(nil), ps.Instructions...)
	noteReasons(inner)
	inner[0] = btf.WithFuncMetadata(inner[0].WithSymbol("watched"), &btf.Func{Name: "watched", Type: fn.Type, Linkage: btf.StaticFunc})
	outer := beginning(hook, cpus)
	outer[0] = btf.WithFuncMetadata(outer[0].WithSymbol(ps.Name).WithSource(line), fn)
	reason := noteReason(cpus)
	reason[0] = btf.WithFuncMetadata(reason[0].WithSymbol("note_reason").WithSource(line), &btf.Func{
		Name: "note_reason", Linkage: btf.StaticFunc,
		Type: &btf.FuncProto{Return: &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}},
	})
	ps.Instructions = append(append(outer, inner...), reason...)
}

// noteReasons has the counters' look-ups call note_reason.
func noteReasons(program asm.Instructions) {
	table := ""
	for i, ins := range program {
		switch {
		case ins.IsLoadFromMap() && ins.Dst == asm.R1:
			table = ins.Reference()
		case ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem && table == tableDrops:
			ins.Src, ins.Constant = asm.PseudoCall, -1
			program[i] = ins.WithReference("note_reason")
			table = ""
		case ins.OpCode.Class().IsALU() && ins.Dst == asm.R1:
			table = ""
		}
	}
}

// part makes r5 the part of a table for the CPU in a register, by r0.
func part(table string, cpu asm.Register, size int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapValue(asm.R5, 0, 0).WithReference(table),
		asm.Mov.Reg(asm.R0, cpu),
		asm.Mul.Imm(asm.R0, size),
		asm.Add.Reg(asm.R5, asm.R0),
	}
}

// thisCPU makes a register the CPU's number, which is below cpus, a power of two.
func thisCPU(to asm.Register, cpus int32) asm.Instructions {
	return asm.Instructions{asm.FnGetSmpProcessorId.Call(), asm.Mov.Reg(to, asm.R0), asm.And.Imm(to, cpus-1)}
}

// noteReason is in place of the look-up of a drop counter: r1 is the map, r2
// its key, the reason.
func noteReason(cpus int32) asm.Instructions {
	out := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.Mov.Reg(asm.R7, asm.R2)}
	out = append(out, thisCPU(asm.R8, cpus)...)
	out = append(out, part(tableReasons, asm.R8, 4)...)
	return append(out,
		asm.LoadMem(asm.R0, asm.R7, 0, asm.Word),
		asm.StoreMem(asm.R5, 0, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnMapLookupElem.Call(),
		asm.Return(),
	)
}

// beginning is the program's new main function.
func beginning(hook, cpus int32) asm.Instructions {
	out := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	out = append(out, thisCPU(asm.R7, cpus)...)
	out = append(out, part(tableReasons, asm.R7, 4)...)
	out = append(out, asm.StoreImm(asm.R5, 0, 0, asm.Word))
	out = append(out, part(tableHeads, asm.R7, recordSize)...)
	out = append(out,
		asm.Mov.Reg(asm.R8, asm.R5),
		asm.LoadMem(asm.R4, asm.R6, skbLength, asm.Word),
		asm.StoreMem(asm.R8, recordLength, asm.R4, asm.Word),
		asm.JLE.Imm(asm.R4, Bytes, "short"),
		asm.Mov.Imm(asm.R4, Bytes),
		asm.JEq.Imm(asm.R4, 0, "kept").WithSymbol("short"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R8),
		asm.Add.Imm(asm.R3, recordData),
		asm.FnSkbLoadBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("kept"),
		asm.Call.Label("watched"),
		asm.Mov.Reg(asm.R9, asm.R0),
	)
	out = append(out, part(tableReasons, asm.R7, 4)...)
	return append(out,
		asm.LoadMem(asm.R1, asm.R5, 0, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "kept_all"),
		asm.StoreMem(asm.R8, recordReason, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word),
		asm.StoreMem(asm.R8, recordLink, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, recordVerdict, asm.R9, asm.Word),
		asm.StoreImm(asm.R8, recordHook, int64(hook), asm.Word),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R8, recordTime, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, 0).WithReference(tableRing),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.Mov.Imm(asm.R3, recordSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.Mov.Reg(asm.R0, asm.R9).WithSymbol("kept_all"),
		asm.Return(),
	)
}
