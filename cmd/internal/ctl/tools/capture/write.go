// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"fmt"
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// writer writes the file. pcapgo adds 2 MB to the program and is kept well by
// others: less than a format of one's own would cost.
type writer struct {
	opts    Options
	out     counter
	ng      *pcapgo.NgWriter
	summary Summary
}

// counter counts the bytes that pass.
type counter struct {
	io.Writer
	bytes int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.bytes += int64(n)
	return n, err
}

// newWriter begins the file: one interface for each device.
func newWriter(w io.Writer, o Options) (*writer, error) {
	out := &writer{opts: o, out: counter{Writer: w}}
	about := func(d Device) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: d.Name, Description: d.About, LinkType: layers.LinkTypeEthernet, SnapLength: uint32(o.Snap), TimestampResolution: 9}
	}
	var err error
	out.ng, err = pcapgo.NewNgWriterInterface(&out.out, about(o.Devices[0]), pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "patchbayctl"}})
	if err != nil {
		return nil, fmt.Errorf("begin capture file: %w", err)
	}
	for _, d := range o.Devices[1:] {
		if _, err := out.ng.AddInterface(about(d)); err != nil {
			return nil, fmt.Errorf("begin capture file: %w", err)
		}
	}
	return out, nil
}

// follow writes packets until a bound is reached, errEnough, or ctx ends.
func (w *writer) follow(ctx context.Context, packets <-chan seen) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-packets:
			if err := w.write(p); err != nil {
				return err
			}
		}
		if w.opts.Count > 0 && w.summary.Packets >= w.opts.Count {
			return errEnough
		}
	}
}

func (w *writer) write(p seen) error {
	data := p.data
	if w.opts.Snap > 0 {
		data = data[:min(len(data), w.opts.Snap)]
	}
	const block = 64 // of headers and options, besides
	if w.opts.Size > 0 && w.out.bytes+int64(len(data)+len(p.comment)+block) > w.opts.Size {
		return errEnough
	}
	options := pcapgo.NgPacketOptions{Flags: &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}}
	if p.out {
		options.Flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	if p.comment != "" {
		options.Comments = []string{p.comment}
		w.summary.Dropped++
	}
	info := gopacket.CaptureInfo{Timestamp: p.time, CaptureLength: len(data), Length: max(p.length, len(data)), InterfaceIndex: p.device}
	if err := w.ng.WritePacketWithOptions(info, data, options); err != nil {
		return fmt.Errorf("write packet: %w", err)
	}
	w.summary.Packets++
	return w.flush()
}

// flush keeps the file whole at every moment, and the count of its bytes true.
func (w *writer) flush() error {
	if err := w.ng.Flush(); err != nil {
		return fmt.Errorf("write capture file: %w", err)
	}
	w.summary.Bytes = w.out.bytes
	return nil
}

func (w *writer) close() error { return w.flush() }
