// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Way is what is tested: from an interface of this node to another node.
type Way struct {
	NIC      string
	MTU      int
	From, To netip.Addr
	Node     string
}

// Outcome is what became of a test.
type Outcome struct {
	Way
	Verdict Verdict
	// Err says what is wrong; nil for what is well and for nodes that don't answer.
	Err error
	// SwitchedOff: checksum offload was broken, and isn't used any more.
	SwitchedOff bool
}

// Run tests a way and switches a broken offload off. What doesn't help is undone.
func Run(ctx context.Context, w Way) Outcome {
	o := Outcome{Way: w}
	result := Probe(ctx, w.From, w.To, w.MTU)
	o.Verdict = result.Judge()
	switch o.Verdict {
	case Large:
		o.Err = fmt.Errorf("%s: packets of %d bytes don't get through to node %s: the network bears less; set the NIC's MTU, or routing.mtu (%w)", w.NIC, w.MTU, w.Node, result.Full)
	case Checksum, Stream:
		o.repair(ctx, errors.Join(result.Small, result.Bulk))
	}
	return o
}

// repair tries without checksum offload.
func (o *Outcome) repair(ctx context.Context, cause error) {
	on, err := ChecksumOffload(o.NIC)
	if err != nil || !on {
		o.Err = errors.Join(fmt.Errorf("%s: packets to node %s are lost, and it isn't checksum offload: %w", o.NIC, o.Node, cause), err)
		return
	}
	if err := SetChecksumOffload(o.NIC, false); err != nil {
		o.Err = fmt.Errorf("%s: checksum offload seems broken: %w", o.NIC, errors.Join(cause, err))
		return
	}
	again := Probe(ctx, o.From, o.To, o.MTU)
	if v := again.Judge(); v == Well || v == Large {
		o.SwitchedOff = true
		o.Err = fmt.Errorf("%s: checksum offload is broken and was switched off (to node %s: %w)", o.NIC, o.Node, cause)
		return
	}
	o.Err = errors.Join(fmt.Errorf("%s: packets to node %s are lost, with checksum offload and without: %w", o.NIC, o.Node, cause), SetChecksumOffload(o.NIC, true))
}
