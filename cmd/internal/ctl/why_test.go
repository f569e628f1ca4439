// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func TestWhy(t *testing.T) {
	var asked agentapi.WhyRequest
	h := handler()
	h[agentapi.OpAddressWhy] = agentapi.Do(func(_ context.Context, r agentapi.WhyRequest) (agentapi.Why, error) {
		asked = r
		return agentapi.Why{
			Addr: r.Addr, Node: "n1", OK: !r.Probe, Verdict: "n1 has it", Links: []agentapi.WhyLink{{Name: "owner", State: "ok", Text: "n1 has it"}},
			Candidates: []agentapi.Candidate{{Node: "n1", Owner: true, Eligible: true, Reason: "place 1"}, {Node: "n2", Reason: "its agent is not heard"}},
		}, nil
	})
	socket := serve(t, h)
	out, _, code := call(t, "--socket", socket, "addresses", "why", "192.0.2.10:80")
	want := "ok  owner  n1 has it\n             n1 (has it): place 1\n             n2 (can't have it): its agent is not heard\n192.0.2.10: n1 has it\n"
	if out != want || code != exitOK || asked != (agentapi.WhyRequest{Addr: addrs("192.0.2.10")[0], Port: 80}) {
		t.Errorf("exit %d, asked %+v, got:\n%s", code, asked, out)
	}
	if _, _, code := call(t, "--socket", socket, "addresses", "why", "[2001:db8::10]:443", "--probe"); code != exitError || !asked.Probe || asked.Port != 443 {
		t.Errorf("broken: exit %d, asked %+v", code, asked)
	}
	if _, text, code := call(t, "--socket", socket, "addresses", "why", "web"); code != exitUsage || !strings.Contains(text, "no address") {
		t.Errorf("no address: exit %d, %s", code, text)
	}
}

func TestDrain(t *testing.T) {
	h := handler()
	h[agentapi.OpNodeDrain] = agentapi.Do(func(_ context.Context, d agentapi.Drain) (agentapi.Drained, error) {
		switch d.Node {
		case "n2":
			return agentapi.Drained{Node: "n2", On: true, Kept: addrs("192.0.2.10")}, nil
		case "n3":
			return agentapi.Drained{}, errors.New("n3 is not heard")
		}
		return agentapi.Drained{Node: "n1", On: d.On}, nil
	})
	socket := serve(t, h)
	for _, tt := range []struct {
		args, want string
		code       int
	}{
		{"nodes drain", "n1 has no LoadBalancer addresses any more\n", exitOK},
		{"nodes drain n1 --off", "n1 may have LoadBalancer addresses again\n", exitOK},
		{"nodes drain n2", "n2 keeps 192.0.2.10: no other node has taken them over yet\n", exitError},
		{"nodes drain n3", "", exitError},
	} {
		if out, _, code := call(t, append([]string{"--socket", socket}, strings.Fields(tt.args)...)...); out != tt.want || code != tt.code {
			t.Errorf("%s: exit %d, got %q, want %q", tt.args, code, out, tt.want)
		}
	}
}

func TestNodes(t *testing.T) {
	h := handler()
	h[agentapi.OpNodes] = answer([]agentapi.Node{
		{Name: "n1", Agent: "self", Life: "alive", Held: addrs("192.0.2.10")},
		{Name: "n2", Agent: "silent", Life: "dead", Problem: "its agent is not heard"},
	})
	out, _, code := call(t, "--socket", serve(t, h), "nodes", "n2")
	if want := "NAME   AGENT    NODE   HEARD-ON   ADDRESSES   DRAINED   PROBLEM\nn2     silent   dead   -          0           no        its agent is not heard\n"; out != want || code != exitOK {
		t.Errorf("exit %d, got:\n%s", code, out)
	}
}
