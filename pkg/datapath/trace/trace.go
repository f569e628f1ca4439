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

import (
	"github.com/patchbay-net/patchbay/pkg/datapath/trace/replica"
)

// Options say which programs to trace.
type Options struct {
	PinDir     string         // as datapath.Options has it
	Constants  map[string]any // datapath.Options' Settings
	Masquerade bool           // pods' packets to the outside get the node's address
	Names      Names
}

// Tracer runs packets through copies of the programs. It serves one caller.
type Tracer struct {
	*replica.Replica
	opts Options
}

// Open opens the pinned maps. Nothing is loaded before it is needed.
func Open(opts Options) (*Tracer, error) {
	r, err := replica.Open(opts.PinDir, opts.Constants)
	if err != nil {
		return nil, err
	}
	return &Tracer{r, opts}, nil
}
