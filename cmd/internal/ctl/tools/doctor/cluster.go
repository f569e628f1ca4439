// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// ExamineCluster looks at all nodes by what their agents have reported.
func ExamineCluster(ctx context.Context, client agentapi.Client) Report {
	w := &ward{Env: Env{Agent: client}}
	w.ask(ctx)
	return w.examine([]check{
		{"agent", "what a node's agent can't do stays undone there", w.agents},
		{"nics", "addresses are announced and replies sent by the NICs' roles", w.carriers},
		{"mtu", "what is larger than the smallest on one network is lost: connections begin, and then stand still", w.mtuOfNodes},
	})
}

// agents tells of agents that say nothing, or aren't well.
func (w *ward) agents() error {
	if w.noAgent != nil {
		w.found(Error, []string{"patchbayctl doctor, on a node"}, "%v", w.noAgent)
		return nil
	}
	if !w.info.Ready {
		w.found(Error, []string{"patchbayctl doctor, on that node"}, "not all nodes are ready: %s", w.info.Reason)
	}
	for _, p := range w.info.Problems {
		w.found(Warning, []string{"patchbayctl doctor, on that node"}, "%s: %s", p.Object, p.Text)
	}
	return nil
}

func (w *ward) carriers() error {
	for _, n := range w.managed() {
		if !n.Carrier {
			w.found(Warning, []string{"look at its cable and switch"}, "%s (%s) has no carrier", n.Name, n.Role)
		}
	}
	return nil
}

// mtuOfNodes compares NICs of one role and one network.
func (w *ward) mtuOfNodes() error {
	all := w.managed()
	for i, a := range all {
		for _, b := range all[i+1:] {
			network, same := sameSubnet(a, b)
			if !same || a.Role != b.Role || a.MTU == b.MTU || a.MTU == 0 || b.MTU == 0 {
				continue
			}
			pair := []agentapi.NIC{a, b}
			slices.SortFunc(pair, func(x, y agentapi.NIC) int { return x.MTU - y.MTU })
			node, name, _ := strings.Cut(pair[0].Name, "/")
			w.found(Error, []string{fmt.Sprintf("on %s: ip link set %s mtu %d, or the other way round", node, name, pair[1].MTU)},
				"on the network %s, %s has MTU %d and %s %d", network, pair[1].Name, pair[1].MTU, pair[0].Name, pair[0].MTU)
		}
	}
	return nil
}
