// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func ipamHandler(leaks ...agentapi.IPAMLeak) agentapi.Handler {
	return agentapi.Handler{
		agentapi.OpIPAM: answer(agentapi.IPAM{
			Blocks: []agentapi.IPAMBlock{
				{Prefix: netip.MustParsePrefix("10.244.0.0/26"), Pool: "pods", State: "Draining", Revision: 3, Used: 2, Free: 60},
				{Prefix: netip.MustParsePrefix("10.200.0.0/24"), Used: 0, Free: 254},
			},
			Leaks: leaks,
		}),
		agentapi.OpIPAMRelease: agentapi.Do(func(_ context.Context, r agentapi.IPAMRelease) ([]agentapi.Lease, error) {
			if !r.Force {
				return nil, agentapi.Errorf(agentapi.CodeInvalid, "in use")
			}
			return []agentapi.Lease{{EndpointKey: agentapi.EndpointKey{ContainerID: "c1", IfName: "eth0"}, Addrs: []netip.Addr{r.Address}}}, nil
		}),
	}
}

func TestIPAM(t *testing.T) {
	leak := agentapi.IPAMLeak{Kind: "lease", Addrs: addrs("10.244.0.5"), Owner: "c1/eth0", Text: "interface is not there"}
	tests := []struct {
		args  string
		leaks []agentapi.IPAMLeak
		want  string
		code  int
	}{
		{"ipam", nil, `
BLOCK           POOL                 STATE      USED   FREE
10.244.0.0/26   pods                 Draining   2      60
10.200.0.0/24   node.spec.podCIDRs   Active     0      254
`, exitOK},
		{"ipam show 10.244.0.9 -o wide", nil, `
BLOCK           POOL   STATE      USED   FREE   REVISION   NODE
10.244.0.0/26   pods   Draining   2      60     3          -
`, exitOK},
		{"ipam check", nil, "leases, interfaces and blocks agree\n", exitOK},
		{"ipam check", []agentapi.IPAMLeak{leak}, `
KIND    ADDRESSES    OWNER     WHAT
lease   10.244.0.5   c1/eth0   interface is not there
`, exitError},
		{"ipam release 10.244.0.5 --force", nil, "released 10.244.0.5 of c1/eth0\n", exitOK},
		{"ipam release 10.244.0.5", nil, "", exitError},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, _, code := call(t, append(strings.Fields(tt.args), "--socket", serve(t, ipamHandler(tt.leaks...)))...)
			if code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}
