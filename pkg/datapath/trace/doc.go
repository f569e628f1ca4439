// SPDX-License-Identifier: Apache-2.0

// Package trace says what would happen to a packet, by running the programs on
// it. It loads copies of them on the maps in force; what programs write is a
// private copy of the entries that the packet could meet, so nothing is
// changed and nothing is sent. The copies run the very same instructions, with
// two exceptions: calls to the kernel's redirect and tunnel-key helpers go
// through a few instructions that note what was asked for. What the stages do
// is seen from outside, by fexit programs on them.
//
//	t, err := trace.Open(trace.Options{PinDir: "/sys/fs/bpf/patchbay"})
//	defer t.Close()
//	walk, err := t.Walk(trace.Packet{From: trace.FromPod, Link: 7, Src: src, Dst: dst, Proto: trace.TCP})
//
// A packet is followed from program to program as far as this node sees it. It
// must be called in the node's network namespace.
package trace
