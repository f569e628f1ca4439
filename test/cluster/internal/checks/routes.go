// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// routes has a route for all nodes and one for a node: their status, a foreign
// removal, what is refused, and another agent's start.
func (s *site) routes(ctx context.Context) error {
	if err := s.routeStatus(ctx); err != nil {
		return err
	}
	const node, prefix = "node-a", "198.18.1.0/24"
	add := []string{"routes", "add", "eth1", prefix, "--next-hop", "198.51.100.1", "--this-node"}
	if _, err := s.ctl(ctx, node, add...); err != nil {
		return err
	}
	if err := s.refusals(ctx, node); err != nil {
		return err
	}
	for _, prefix := range []string{prefix, "198.18.0.0/24"} {
		if err := s.comesBack(ctx, node, prefix); err != nil {
			return err
		}
	}
	if err := s.survives(ctx, node, "198.18.0.0/24", prefix); err != nil {
		return err
	}
	if _, err := s.ctl(ctx, node, "routes", "remove", "eth1", prefix); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "delete", "noderoute/checks", "--timeout=20s"); err != nil {
		return err
	}
	return s.await(ctx, 10*time.Second, func() error {
		text, err := s.on(ctx, node, "ip", "route", "show", "root", "198.18.0.0/15")
		if err == nil && text != "" {
			err = fmt.Errorf("still there: %s", text)
		}
		return err
	})
}

// routeStatus is the object's word on each node: those with the NIC have the
// route, the others say why not.
func (s *site) routeStatus(ctx context.Context) error {
	return s.await(ctx, 10*time.Second, func() error {
		text, err := s.kubectl(ctx, "get", "noderoute/checks", "-o", `jsonpath={range .status.nodes[*]}{.node} {.state} {.message};{end}`)
		if err != nil {
			return err
		}
		for _, m := range s.lab.Machines {
			want := m.Name + " Applied"
			if !m.External.V4.IsValid() {
				want = m.Name + " Refused no interface eth1"
			}
			if err := holds(text, want); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *site) refusals(ctx context.Context, node string) error {
	for args, why := range map[string]string{
		"eth1 198.18.2.1/24":                           "has host bits",
		"eth1 0.0.0.0/0":                               "is the default route",
		"eth1 198.18.2.0/24 --next-hop 203.0.113.1":    "is not on the link",
		"eth1 198.18.1.0/24 --metric 7":                "is routed over eth1 already, with metric 100",
		"eth9 198.18.2.0/24 --next-hop 198.51.100.1":   "no interface eth9",
		"eth1 10.244.9.0/24 --next-hop 198.51.100.1":   "refused",
		"eth1 2001:db8:9::/64 --next-hop 198.51.100.1": "refused",
	} {
		text, err := s.ctl(ctx, node, append([]string{"routes", "add", "--this-node"}, strings.Fields(args)...)...)
		if err == nil {
			return fmt.Errorf("routes add %s was taken", args)
		}
		if err := holds(text, why, "exit code 1"); err != nil {
			return fmt.Errorf("routes add %s: %w", args, err)
		}
	}
	text, err := s.ctl(ctx, node, "routes", "get")
	if err != nil {
		return err
	}
	return holds(text, "198.18.0.0/24", "198.18.1.0/24", "this node")
}

// comesBack removes a route as another program would, and waits for it.
func (s *site) comesBack(ctx context.Context, node, prefix string) error {
	// One command on the node, so that its own start isn't counted.
	const script = `ip route del $0 || exit; for i in $(seq 100); do [ -z "$(ip route show $0)" ] || exit 0; sleep 0.01; done; exit 1`
	if _, err := s.on(ctx, node, "sh", "-c", script, prefix); err != nil {
		return fmt.Errorf("route %s is not back within a second: %w", prefix, err)
	}
	return nil
}

// survives puts another agent in place of the node's; the routes stay all along.
func (s *site) survives(ctx context.Context, node string, prefixes ...string) error {
	agent, err := s.agent(ctx, node)
	if err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "-n", "patchbay-system", "delete", agent, "--timeout=60s"); err != nil {
		return err
	}
	for _, prefix := range prefixes {
		text, err := s.on(ctx, node, "ip", "route", "show", prefix)
		if err != nil {
			return err
		}
		if err := holds(text, "dev eth1"); err != nil {
			return fmt.Errorf("after the agent went: %w", err)
		}
	}
	err = s.await(ctx, 40*time.Second, func() error {
		text, err := s.ctl(ctx, node, "routes", "get")
		if err != nil {
			return err
		}
		return holds(text, prefixes...)
	})
	if err != nil {
		return fmt.Errorf("after the agent came: %w", err)
	}
	return s.comesBack(ctx, node, prefixes[0])
}
