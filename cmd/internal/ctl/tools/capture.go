// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools/capture"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// captureFlags are the tool's own settings.
type captureFlags struct {
	file, filter       string
	onlyDrops, noDrops bool
	options            capture.Options
}

// capture is the tool that writes packets to a file.
func (t *tools) capture() *cobra.Command {
	var flags captureFlags
	cmd := &cobra.Command{
		Use:   "capture [NIC | POD | all]...",
		Short: "Write packets, and why some are dropped, to a file",
		Long: `Write the packets of NICs and pods to a pcapng file, which Wireshark and tcpdump
read. All NICs, pods and the tunnel are captured on unless some are named. What
the programs drop is there once more, with the reason as its comment.

A filter is made of "host A", "net P", "port N", tcp, udp, sctp, icmp, arp, ip
and ip6, with "not" before and "and" between them. The capture ends at the first
of its bounds, or with Ctrl-C; what was written is whole.`,
		Example: t.examples(
			"capture eth1 --filter 'host 192.0.2.10 and port 80' --file web.pcapng", "capture --only-drops --duration 10s --file drops.pcapng"),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := capture.ParseFilter(flags.filter)
			if err != nil {
				return err
			}
			flags.options.Filter = filter
			client, err := t.Begin()
			if err != nil {
				return err
			}
			return t.runCapture(cmd.Context(), client, flags, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.file, "file", "-", "where to write; - is the standard output")
	f.StringVar(&flags.filter, "filter", "", "which packets")
	f.IntVar(&flags.options.Count, "count", 100_000, "end after so many packets; 0: no bound")
	f.DurationVar(&flags.options.Duration, "duration", time.Minute, "end after so long; 0: no bound")
	f.Int64Var(&flags.options.Size, "size", 64<<20, "end before the file gets larger, in bytes; 0: no bound")
	f.IntVar(&flags.options.Snap, "snap", 0, "bytes kept of each packet; 0: all")
	f.BoolVar(&flags.onlyDrops, "only-drops", false, "only what the programs drop")
	f.BoolVar(&flags.noDrops, "no-drops", false, "leave the programs alone: not what they drop")
	cmd.MarkFlagsMutuallyExclusive("only-drops", "no-drops")
	return cmd
}

func (t *tools) runCapture(ctx context.Context, client agentapi.Client, flags captureFlags, names []string) (err error) {
	o := flags.options
	if o.Devices, err = captureDevices(ctx, client, names); err != nil {
		return err
	}
	o.OnlyLost = flags.onlyDrops
	if !flags.noDrops {
		client.Timeout = max(client.Timeout, loadTime)
		_, err := client.Lost(ctx, 0)
		switch {
		case err == nil:
			o.Lost = client.Lost
		case flags.onlyDrops:
			return fmt.Errorf("dropped packets: %w", err)
		default:
			fmt.Fprintf(t.Stderr(), "without dropped packets: %v\n", err)
		}
	}
	var out io.WriteCloser = nopCloser{t.Stdout()}
	if flags.file != "-" {
		if out, err = os.OpenFile(flags.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			return err
		}
	}
	summary, err := capture.Run(ctx, o, out)
	fmt.Fprintf(t.Stderr(), "%d packets, %d of them dropped ones, %d bytes; %d missed\n", summary.Packets, summary.Dropped, summary.Bytes, summary.Missed)
	return errors.Join(err, out.Close())
}

// captureDevices finds the devices that are meant: all that the agent has
// programs at, or by name. Without an agent, names are devices'.
func captureDevices(ctx context.Context, client agentapi.Client, names []string) ([]capture.Device, error) {
	all, err := knownDevices(ctx, client)
	if err != nil && !errors.Is(err, agentapi.ErrUnavailable) {
		return nil, err
	}
	if len(names) == 0 || slices.Contains(names, "all") {
		if len(all) == 0 {
			return nil, fmt.Errorf("which devices? %w", errors.Join(err, errors.New("the agent names none")))
		}
		return all, nil
	}
	var out []capture.Device
	for _, name := range names {
		i := slices.IndexFunc(all, func(d capture.Device) bool { return d.Name == name || d.About == name || d.About == "pod "+name })
		if i >= 0 {
			out = append(out, all[i])
			continue
		}
		link, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("%s: no NIC, pod or device of that name", name)
		}
		out = append(out, capture.Device{Name: name, Index: link.Index})
	}
	return out, nil
}

func knownDevices(ctx context.Context, client agentapi.Client) (all []capture.Device, err error) {
	nics, err := client.NICs(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nics {
		if n.Role != "ignored" {
			all = append(all, capture.Device{Name: n.Name, Index: n.Index, About: n.Role})
		}
	}
	pods, err := client.Pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if link, err := net.InterfaceByName(p.HostIfName); err == nil {
			all = append(all, capture.Device{Name: p.HostIfName, Index: link.Index, About: "pod " + p.PodNamespace + "/" + p.PodName})
		}
	}
	if tunnel, err := net.InterfaceByName("pb-vxlan"); err == nil {
		all = append(all, capture.Device{Name: tunnel.Name, Index: tunnel.Index, About: "tunnel"})
	}
	return all, nil
}
