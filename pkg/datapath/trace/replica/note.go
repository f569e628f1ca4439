// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// A record of the map steps: 4 bytes that say which stage (its number, and
// whether it ends), 4 of what it returned, then what its arguments pointed to
// at its beginning. In place of the first record is the number of those that
// there are.
const (
	maxSteps      = 127
	stepSize      = 264
	stepPacket    = 8
	stepFlow      = 120
	stepFrontend  = 224
	stepEnd       = 1 << 31
	frontendLimit = stepSize - stepFrontend
)

// stage is a global function of a program.
type stage struct {
	name string
	args map[string]argument // by the struct that they point to
}

// argument is a pointer to a struct.
type argument struct {
	register asm.Register
	size     int16
}

// noteStages makes the global functions of a program, but for the program
// itself, note when they begin, with what, and what they return. What is added
// stands before a function's first and behind its last instruction, and takes
// the place of its exits, so no jump inside of it changes.
func noteStages(ps *ebpf.ProgramSpec) (stages []stage) {
	stages = []stage{{}}
	var out, end asm.Instructions
	for _, ins := range ps.Instructions {
		if fn := btf.FuncMetadata(&ins); fn != nil {
			out, end = append(out, end...), nil
			if s, ok := stageOf(fn); ok && fn.Name != ps.Name {
				number := int64(len(stages))
				stages = append(stages, s)
				out = append(out, beginning(s, number, ins)...)
				end = ending(s, number)
				ins.Metadata = asm.Metadata{}
				ins = ins.WithSymbol(bodyOf(s.name)).WithReference(out[0].Reference())
			}
		}
		if end != nil && ins.OpCode.JumpOp() == asm.Exit {
			jump := asm.Ja.Label(endOf(stages[len(stages)-1].name))
			ins = jump.WithSource(ins.Source()).WithSymbol(ins.Symbol())
		}
		out = append(out, ins)
	}
	ps.Instructions = append(out, end...)
	return stages
}

func bodyOf(name string) string { return "body_of_" + name }
func endOf(name string) string  { return "end_of_" + name }

// stageOf describes a function; not ok: it isn't global, or leaves no register
// free.
func stageOf(fn *btf.Func) (s stage, ok bool) {
	proto, isProto := fn.Type.(*btf.FuncProto)
	if !isProto || fn.Linkage != btf.GlobalFunc || len(proto.Params) > 4 {
		return s, false
	}
	s = stage{fn.Name, map[string]argument{}}
	for i, param := range proto.Params {
		pointer, ok := btf.UnderlyingType(param.Type).(*btf.Pointer)
		if !ok {
			continue
		}
		if target, ok := btf.UnderlyingType(pointer.Target).(*btf.Struct); ok {
			s.args[target.Name] = argument{asm.R1 + asm.Register(i), int16(target.Size)}
		}
	}
	return s, true
}

// nextRecord makes r5 the next record; the index is worked out in a register.
func nextRecord(index asm.Register, full string) asm.Instructions {
	return asm.Instructions{
		value(asm.R5, tableSteps),
		asm.LoadMem(index, asm.R5, 0, asm.Word),
		asm.JGT.Imm(index, maxSteps-1, full),
		asm.Add.Imm(index, 1),
		asm.StoreMem(asm.R5, 0, index, asm.Word),
		asm.Mul.Imm(index, stepSize),
		asm.Add.Reg(asm.R5, index),
	}
}

// beginning notes that a stage begins. Its arguments stay in their registers.
func beginning(s stage, number int64, first asm.Instruction) asm.Instructions {
	body := bodyOf(s.name)
	out := nextRecord(asm.R0, body)
	out[0].Metadata = first.Metadata
	out[0] = out[0].WithReference(tableSteps)
	out = append(out, asm.StoreImm(asm.R5, 0, number, asm.Word))
	for _, what := range []struct {
		name  string
		at    int16
		limit int16
	}{
		{"pkt", stepPacket, stepFlow - stepPacket},
		{"flow", stepFlow, stepFrontend - stepFlow},
		{"frontend", stepFrontend, frontendLimit},
	} {
		a, ok := s.args[what.name]
		if !ok || a.size > what.limit || a.size%8 != 0 {
			continue
		}
		out = append(out, asm.JEq.Imm(a.register, 0, body))
		for n := int16(0); n < a.size; n += 8 {
			out = append(out, asm.LoadMem(asm.R0, a.register, n, asm.DWord), asm.StoreMem(asm.R5, what.at+n, asm.R0, asm.DWord))
		}
	}
	return out
}

// ending notes what a stage returns.
func ending(s stage, number int64) asm.Instructions {
	out := nextRecord(asm.R1, "out_of_"+s.name)
	out[0] = out[0].WithSymbol(endOf(s.name))
	return append(out,
		asm.StoreImm(asm.R5, 0, number-stepEnd, asm.Word),
		asm.StoreMem(asm.R5, 4, asm.R0, asm.Word),
		asm.Return().WithSymbol("out_of_"+s.name),
	)
}

// stepsSpec is the map that records go to.
func stepsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: tableSteps, Type: ebpf.Array, KeySize: 4, ValueSize: (maxSteps + 1) * stepSize, MaxEntries: 1}
}
