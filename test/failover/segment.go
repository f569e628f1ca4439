// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// cutTable drops frames between pairs of ports: what is in another group. The
// carrier stays.
const cutTable = `
table bridge cut {
	set pairs { type ifname . ifname; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		iifname . oifname @pairs drop
	}
}
`

// Segment is a switch that can be cut into groups of ports.
type Segment struct {
	*netlab.Switch
	groups map[string]int // of each port
	fixed  []string
}

// NewSegment makes a switch, uncut.
func NewSegment(tb netlab.TB) *Segment {
	tb.Helper()
	s := &Segment{Switch: netlab.NewSwitch(tb), groups: map[string]int{}}
	if err := s.nft(cutTable); err != nil {
		tb.Fatalf("make table: %v", err)
	}
	return s
}

// Join plugs a new interface of a namespace in and returns the port.
func (s *Segment) Join(tb netlab.TB, ns *netlab.Namespace, name string) string {
	tb.Helper()
	port := s.Switch.Join(tb, ns, name)
	s.groups[port] = 0
	return port
}

// Fixed says that a port is always in group 0, the clients'.
func (s *Segment) Fixed(port string) { s.fixed = append(s.fixed, port) }

// nft carries out a script of nftables in the switch, as one transaction.
func (s *Segment) nft(script string) error {
	return s.Net.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// Group puts ports into groups; those not named stay in theirs. Frames pass
// within a group only. All happens at one moment.
func (s *Segment) Group(groups map[string]int) error {
	for port, group := range groups {
		if !slices.Contains(s.fixed, port) {
			s.groups[port] = group
		}
	}
	ports := slices.Sorted(maps.Keys(s.groups))
	var pairs []string
	for _, a := range ports {
		for _, b := range ports {
			if a != b && s.groups[a] != s.groups[b] {
				pairs = append(pairs, fmt.Sprintf("%q . %q", a, b))
			}
		}
	}
	script := "flush set bridge cut pairs\n"
	if len(pairs) > 0 {
		script += "add element bridge cut pairs { " + strings.Join(pairs, ", ") + " }\n"
	}
	return s.nft(script)
}

// Reaches tells whether a port's frames reach the clients.
func (s *Segment) Reaches(port string) bool { return s.groups[port] == 0 }
