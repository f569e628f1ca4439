// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func TestPools(t *testing.T) {
	pool := agentapi.Pool{
		Name: "external", Use: "LoadBalancer", Ranges: []string{"192.0.2.0/28"}, Total: 14, Used: 2, Free: 12,
		Conflicts: []agentapi.PoolConflict{{Address: "192.0.2.3", MAC: "02:00:00:00:00:09", Node: "a"}},
		Owners:    []agentapi.PoolOwner{{Address: "192.0.2.1", Service: "default/web", State: "Active"}},
		Problems:  []string{"192.0.2.3 is used by 02:00:00:00:00:09"},
	}
	h := agentapi.Handler{
		agentapi.OpPools: agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Pool, error) { return []agentapi.Pool{pool}, nil }),
		agentapi.OpPoolDrain: agentapi.Do(func(_ context.Context, d agentapi.PoolDrain) (agentapi.Pool, error) {
			p := pool
			p.Name, p.Disabled = d.Pool, !d.Off
			switch d.Pool {
			case "pods":
				p.Use, p.Owners = "Pod", nil
			case "empty":
				p.Use, p.Owners, p.Used = "Pod", nil, 0
			}
			return p, nil
		}),
	}
	socket := serve(t, h)
	tests := []struct {
		args, want string
		code       int
	}{
		{"pools", "external   LoadBalancer   14      2      12     1           no         192.0.2.3 is used by 02:00:00:00:00:09", exitOK},
		{"pools external -o wide", "192.0.2.1=default/web   192.0.2.3=02:00:00:00:00:09", exitOK},
		{"pools none", "", exitError},
		{"pools drain external", "pool external gives no more addresses\n192.0.2.1 is still that of default/web\n", exitError},
		{"pools drain pods", "pool pods gives no more addresses\nin use or resting: 2\n", exitError},
		{"pools drain empty", "pool empty gives no more addresses\n", exitOK},
		{"pools drain external --off", "pool external gives addresses again\n", exitOK},
		{"pools drain", "", exitUsage},
	}
	for _, tt := range tests {
		out, _, code := call(t, append([]string{"--socket", socket}, strings.Fields(tt.args)...)...)
		if code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("%s: want %d and\n%s\ngot %d and\n%s", tt.args, tt.code, tt.want, code, out)
		}
	}
}
