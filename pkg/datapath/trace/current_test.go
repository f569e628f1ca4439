// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/patchbay-net/patchbay/pkg/datapath/trace"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestCurrent: a program of another version at the NIC is told of, and a copy
// that shows what is dropped isn't taken for one.
func TestCurrent(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		tracer, err := trace.Open(trace.Options{PinDir: pinDir})
		if err != nil {
			t.Fatal(err)
		}
		defer tracer.Close()
		if err := tracer.Current(); err != nil {
			t.Errorf("the program itself: %v", err)
		}
		if _, err := l.d.Lost(time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := tracer.Current(); err != nil {
			t.Errorf("while somebody looks at drops: %v", err)
		}
		l.d.Close()
		putAnother(t)
		if err := tracer.Current(); err == nil {
			t.Error("another program: no error")
		}
	})
}

// putAnother puts another program at the NICs.
func putAnother(t *testing.T) {
	t.Helper()
	spec := &ebpf.ProgramSpec{Name: "tc_uplink_in", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}}
	other, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	pins, err := filepath.Glob(filepath.Join(pinDir, "v*", "links", "nic-*-in"))
	if err != nil || len(pins) == 0 {
		t.Fatalf("links %v: %v", pins, err)
	}
	for _, pin := range pins {
		hook, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer hook.Close()
		if err := hook.Update(other); err != nil {
			t.Fatal(err)
		}
	}
}
