// SPDX-License-Identifier: Apache-2.0

// Package capture writes packets of devices to a pcapng file, and those that
// the programs drop, each with the reason in its comment.
package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Device is one that is captured on.
type Device struct {
	Name  string
	Index int
	About string // whose it is
}

// Options bound a capture. It ends when the first of the bounds is reached.
type Options struct {
	Devices  []Device
	Filter   Filter
	Count    int           // packets; 0: no bound
	Duration time.Duration // 0: no bound
	Size     int64         // bytes of the file; 0: no bound
	Snap     int           // bytes kept of each packet; 0: all
	// Lost waits for packets that were dropped; nil: they are not asked for.
	Lost func(context.Context, time.Duration) ([]agentapi.LostPacket, error)
	// Only those are wanted, not what passes.
	OnlyLost bool
}

// Summary says what was written.
type Summary struct {
	Packets int   `json:"packets"`
	Dropped int   `json:"dropped"` // of them
	Missed  int   `json:"missed"`  // that came faster than they could be written
	Bytes   int64 `json:"bytes"`
}

// seen is a packet of a device, or a dropped one.
type seen struct {
	device  int // among the options' devices
	time    time.Time
	out     bool
	length  int
	data    []byte
	comment string
}

// errEnough ends a capture whose bound is reached.
var errEnough = errors.New("enough")

// lostWait is how long one question for dropped packets may take.
const lostWait = 500 * time.Millisecond

// Run captures until a bound is reached or ctx ends, which is no error.
func Run(ctx context.Context, o Options, w io.Writer) (Summary, error) {
	if len(o.Devices) == 0 {
		return Summary{}, errors.New("capture: no device")
	}
	out, err := newWriter(w, o)
	if err != nil {
		return Summary{}, err
	}
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	group, running := errgroup.WithContext(ctx)
	packets := make(chan seen, 1024)
	sources, err := open(o)
	if err != nil {
		return Summary{}, err
	}
	for i, s := range sources {
		group.Go(func() error { return s.run(running, i, o, packets) })
	}
	if o.Lost != nil {
		group.Go(func() error { return followLost(running, o, packets) })
	}
	group.Go(func() error { return out.follow(running, packets) })
	err = group.Wait()
	for _, s := range sources {
		out.summary.Missed += s.missed()
		err = errors.Join(err, s.Close())
	}
	if errors.Is(err, errEnough) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return out.summary, errors.Join(err, out.close())
}

// followLost asks for dropped packets again and again.
func followLost(ctx context.Context, o Options, packets chan<- seen) error {
	for ctx.Err() == nil {
		lost, err := o.Lost(ctx, lostWait)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("dropped packets: %w", err)
		}
		for _, p := range lost {
			device := slices.IndexFunc(o.Devices, func(d Device) bool { return d.Index == p.Link })
			if device < 0 || !o.Filter.Match(p.Data) {
				continue
			}
			comment := fmt.Sprintf("dropped by %s: %s", p.Program, p.Reason)
			if p.Answered {
				comment += "; its sender was told"
			}
			select {
			case packets <- seen{device: device, time: p.Time, length: p.Length, data: p.Data, comment: comment}:
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}
