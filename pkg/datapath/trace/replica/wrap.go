// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Sent is what the program asked the kernel to send: the last redirect, and
// the tunnel's key that it set.
type Sent struct {
	Helper   uint32 // a bpf_func_id; 0: none
	Link     uint32
	Flags    uint32
	Family   uint32 // of Hop; 0: none given
	Hop      [16]byte
	Tunnel   uint32 // 1 + flags of the key; 0: not set
	TunnelID uint32
	Remote   [16]byte
}

// came is the tunnel's key that a packet seems to have come with.
type came struct {
	Tunnel   uint32 // 1 + flags of the key; 0: through no tunnel
	TunnelID uint32
	Remote   [16]byte
}

// Offsets in these, and their sizes.
const (
	sentHelper, sentLink, sentFlags  = 0, 4, 8
	sentFamily, sentTunnel, sentSize = 12, 32, 56
	cameTunnel, cameID, cameSize     = 0, 4, 24
)

// neighSize and keySize are how much of bpf_redir_neigh and of bpf_tunnel_key
// is noted: family and address, id and remote address.
const neighSize, keySize = 20, 20

// noteHelpers makes a program's calls to helpers that send, or read how a
// packet came, calls of functions that note it. Each takes the place of one
// instruction, so no jump changes.
func noteHelpers(program asm.Instructions) asm.Instructions {
	wrappers := map[asm.BuiltinFunc]asm.Instructions{
		asm.FnRedirect:        noteRedirect(asm.FnRedirect),
		asm.FnRedirectPeer:    noteRedirect(asm.FnRedirectPeer),
		asm.FnRedirectNeigh:   noteNeighbour(),
		asm.FnSkbSetTunnelKey: noteTunnel(),
		asm.FnSkbGetTunnelKey: giveTunnel(),
	}
	var used []asm.BuiltinFunc
	out := slices.Clone(program)
	for i, ins := range out {
		helper := asm.BuiltinFunc(ins.Constant)
		if !ins.IsBuiltinCall() || wrappers[helper] == nil {
			continue
		}
		if !slices.Contains(used, helper) {
			used = append(used, helper)
		}
		ins.Src, ins.Constant = asm.PseudoCall, -1
		out[i] = ins.WithReference(wrapperName(helper))
	}
	for _, helper := range used {
		w := wrappers[helper]
		// The kernel wants a line for each function: any will do.
		w[0] = btf.WithFuncMetadata(w[0].WithSymbol(wrapperName(helper)).WithSource(program[0].Source()), &btf.Func{
			Name: wrapperName(helper), Linkage: btf.StaticFunc,
			Type: &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}},
		})
		out = append(out, w...)
	}
	return out
}

func wrapperName(helper asm.BuiltinFunc) string { return fmt.Sprintf("note_%d", int(helper)) }

// value loads the address of the only value of an array.
func value(dst asm.Register, table string) asm.Instruction {
	return asm.LoadMapValue(dst, 0, 0).WithReference(table)
}

// copyWords copies from r2 to at in r5's value, by r0.
func copyWords(from, at int16, size int) (out asm.Instructions) {
	for n := int16(0); int(n) < size; n += 4 {
		out = append(out, asm.LoadMem(asm.R0, asm.R2, from+n, asm.Word), asm.StoreMem(asm.R5, at+n, asm.R0, asm.Word))
	}
	return out
}

func noteRedirect(helper asm.BuiltinFunc) asm.Instructions {
	return asm.Instructions{
		value(asm.R5, tableSends),
		asm.StoreImm(asm.R5, sentHelper, int64(helper), asm.Word),
		asm.StoreMem(asm.R5, sentLink, asm.R1, asm.Word),
		asm.StoreMem(asm.R5, sentFlags, asm.R2, asm.Word),
		helper.Call(),
		asm.Return(),
	}
}

func noteNeighbour() asm.Instructions {
	out := asm.Instructions{
		value(asm.R5, tableSends),
		asm.StoreImm(asm.R5, sentHelper, int64(asm.FnRedirectNeigh), asm.Word),
		asm.StoreMem(asm.R5, sentLink, asm.R1, asm.Word),
		asm.StoreMem(asm.R5, sentFlags, asm.R4, asm.Word),
		asm.JEq.Imm(asm.R2, 0, "note_neigh_none"),
	}
	out = append(out, copyWords(0, sentFamily, neighSize)...)
	return append(out, asm.FnRedirectNeigh.Call().WithSymbol("note_neigh_none"), asm.Return())
}

func noteTunnel() asm.Instructions {
	out := asm.Instructions{
		value(asm.R5, tableSends),
		asm.Mov.Reg(asm.R0, asm.R4),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R5, sentTunnel, asm.R0, asm.Word),
	}
	out = append(out, copyWords(0, sentTunnel+4, keySize)...)
	return append(out, asm.FnSkbSetTunnelKey.Call(), asm.Return())
}

// giveTunnel answers bpf_skb_get_tunnel_key by what the packet seems to have
// come with: a test packet has no metadata.
func giveTunnel() asm.Instructions {
	out := asm.Instructions{
		value(asm.R5, tableArrivals),
		asm.Add.Imm(asm.R4, 1),
		asm.LoadMem(asm.R0, asm.R5, cameTunnel, asm.Word),
		asm.JEq.Reg(asm.R0, asm.R4, "note_came"),
		asm.Mov.Imm(asm.R0, -22),
		asm.Return(),
	}
	for n := int16(0); n < keySize; n += 4 {
		load := asm.LoadMem(asm.R0, asm.R5, cameID+n, asm.Word)
		if n == 0 {
			load = load.WithSymbol("note_came")
		}
		out = append(out, load, asm.StoreMem(asm.R2, n, asm.R0, asm.Word))
	}
	return append(out, asm.Mov.Imm(asm.R0, 0), asm.Return())
}
