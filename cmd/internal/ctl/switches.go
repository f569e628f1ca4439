// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/byhand"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func (c *cli) switches(program string) *cobra.Command {
	cmd := c.switchNoun().command(c, program)
	cmd.AddCommand(c.createSwitch(program), c.enablePort(program), c.disablePort(program))
	return cmd
}

func (c *cli) switchNoun() noun[agentapi.Switch] {
	return noun[agentapi.Switch]{
		use: "switches", what: "SWITCH", aliases: []string{"switch"},
		short:    "List the device's virtual switches, enable ports for compute",
		long:     "List the device's virtual switches: the bridge that each is, the port that its\ntraffic leaves by, and whether it is as declared. SWITCH is a name or a port.",
		examples: []string{"switches", "switches external -o yaml"},
		fetch: func(client agentapi.Client, ctx context.Context) ([]agentapi.Switch, error) {
			list, err := client.Switches(ctx)
			if errors.Is(err, agentapi.ErrUnavailable) {
				return byhand.Switches()
			}
			return list, err
		},
		columns: []column[agentapi.Switch]{
			{"NAME", false, func(s agentapi.Switch) string { return s.Name }},
			{"TYPE", false, func(s agentapi.Switch) string { return s.Type }},
			{"PORT", false, func(s agentapi.Switch) string { return s.Port }},
			{"VLAN", false, func(s agentapi.Switch) string { return number(s.VLAN) }},
			{"BRIDGE", false, func(s agentapi.Switch) string { return s.Bridge }},
			{"UPLINK", false, func(s agentapi.Switch) string { return s.Uplink }},
			{"MTU", false, func(s agentapi.Switch) string { return number(s.MTU) }},
			{"ADDRESSES", true, func(s agentapi.Switch) string { return list(s.Addrs) }},
			{"READY", false, func(s agentapi.Switch) string { return yes(s.Ready) }},
			{"REASON", false, func(s agentapi.Switch) string { return s.Reason }},
		},
		named: func(s agentapi.Switch, name string) bool { return s.Name == name || s.Port == name },
	}
}

// number shows zero as nothing.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// createSwitch is the verb create.
func (c *cli) createSwitch(program string) *cobra.Command {
	var s agentapi.SwitchCreate
	var addresses []string
	cmd := &cobra.Command{
		Use:   "create internal|external",
		Short: "Make a virtual switch",
		Long: `Make the device's internal or external switch. The internal one has the device's
own addresses, the gateways of those on it, and leads outside by NAT through the
port with the default route. The external one is bridged to a port, as enable-port
does. With the device's agent it is there for good, without it until the next boot.`,
		Example: examples(program, []string{"switches create internal --address 172.31.0.1/24", "switches create external --port port3 --vlan 20"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Type = args[0]
			for _, text := range addresses {
				p, err := netip.ParsePrefix(text)
				if err != nil {
					return fmt.Errorf("--address %q is no address with its prefix length", text)
				}
				s.Addrs = append(s.Addrs, p)
			}
			return c.makeSwitch(cmd.Context(), s)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.Port, "port", "", "the `port` of an external switch")
	flags.StringSliceVar(&addresses, "address", nil, "an `address` of the device's on an internal switch, with its prefix length")
	portFlags(cmd, &s)
	return cmd
}

// portFlags are the flags of what is made on a port.
func portFlags(cmd *cobra.Command, s *agentapi.SwitchCreate) {
	cmd.Flags().IntVar(&s.VLAN, "vlan", 0, "the `tag` of the switch's frames on the port; untagged if left out")
	cmd.Flags().IntVar(&s.MTU, "mtu", 0, "the switch's MTU; the port's if left out")
}

// enablePort is the verb enable-port.
func (c *cli) enablePort(program string) *cobra.Command {
	s := agentapi.SwitchCreate{Type: "external"}
	cmd := &cobra.Command{
		Use:   "enable-port PORT",
		Short: "Enable a port for compute",
		Long: `Enable a port for compute: the external switch is bridged to it. The port's
addresses and routes go over to the switch, connections stay. A port that is
teamed or bonded, or belongs to another switch, is refused.`,
		Example: examples(program, []string{"switches enable-port port3", "switches enable-port port3 --vlan 20 --mtu 9000"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Port = args[0]
			return c.makeSwitch(cmd.Context(), s)
		},
	}
	portFlags(cmd, &s)
	return cmd
}

// disablePort is the verb disable-port.
func (c *cli) disablePort(program string) *cobra.Command {
	return &cobra.Command{
		Use:   "disable-port PORT",
		Short: "Disable a port for compute",
		Long: `Disable a port for compute: the external switch goes, and the port is as it was
before it was enabled. What has a leg on the switch loses it.`,
		Example: examples(program, []string{"switches disable-port port3", "switches disable-port port4 --socket /run/patchbay/agent.sock"}),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.begin()
			if err != nil {
				return err
			}
			client.Timeout = 0
			err = client.DisablePort(cmd.Context(), args[0])
			if errors.Is(err, agentapi.ErrUnavailable) {
				err = byhand.DisablePort(args[0])
			}
			return err
		},
	}
}

// makeSwitch makes a switch and prints it.
func (c *cli) makeSwitch(ctx context.Context, s agentapi.SwitchCreate) error {
	client, err := c.begin()
	if err != nil {
		return err
	}
	client.Timeout = 0
	made, err := client.CreateSwitch(ctx, s)
	if errors.Is(err, agentapi.ErrUnavailable) {
		if made, err = byhand.CreateSwitch(s); err == nil {
			fmt.Fprintln(c.stderr, "no agent runs on this device: the switch is there until the next boot")
		}
	}
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := render(&text, c.output, c.switchNoun().columns, []agentapi.Switch{made}); err != nil {
		return err
	}
	_, err = c.stdout.Write(text.Bytes())
	return err
}
