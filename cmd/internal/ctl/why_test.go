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
	var asked []agentapi.WhyRequest
	h := handler()
	h[agentapi.OpAddressWhy] = agentapi.Do(func(_ context.Context, r agentapi.WhyRequest) (agentapi.Why, error) {
		asked = append(asked, r)
		w := agentapi.Why{
			Addr: r.Addr, Port: r.Port, Node: "n1", OK: !r.Probe, Verdict: "n1 has it", Links: []agentapi.WhyLink{{Name: "owner", State: "ok", Text: "n1 has it"}},
			Candidates: []agentapi.Candidate{{Node: "n1", Owner: true, Eligible: true, Reason: "place 1"}, {Node: "n2", Reason: "its agent is not heard"}},
		}
		switch r.Service {
		case "shop/web":
			w.Addr, w.Others = addrs("192.0.2.10")[0], addrs("2001:db8::10")
		case "default/new":
			w = agentapi.Why{Node: "n1", Verdict: "service: default/new has no address", Links: []agentapi.WhyLink{{Name: "service", State: "broken", Text: "default/new has no address"}}}
		}
		return w, nil
	})
	socket := serve(t, h)
	chain := "  ok  owner  n1 has it\n               n1 (has it): place 1\n               n2 (can't have it): its agent is not heard\n"
	for _, tt := range []struct {
		args string
		want string
		code int
		last agentapi.WhyRequest
	}{
		{"192.0.2.10:80", "192.0.2.10:80: well, as n1 sees it: n1 has it\n" + chain, exitOK, agentapi.WhyRequest{Addr: addrs("192.0.2.10")[0], Port: 80}},
		{"[2001:db8::10]:443 --probe --from 203.0.113.7", "[2001:db8::10]:443: BROKEN: n1 has it\n" + chain, exitError,
			agentapi.WhyRequest{Addr: addrs("2001:db8::10")[0], Port: 443, Probe: true, From: addrs("203.0.113.7")[0]}},
		{"shop/web", "192.0.2.10: well, as n1 sees it: n1 has it\n" + chain + "\n2001:db8::10: well, as n1 sees it: n1 has it\n" + chain, exitOK,
			agentapi.WhyRequest{Addr: addrs("2001:db8::10")[0]}},
		{"new", "BROKEN: service: default/new has no address\n  broken  service  default/new has no address\n", exitError, agentapi.WhyRequest{Service: "default/new"}},
	} {
		asked = nil
		out, _, code := call(t, append([]string{"--socket", socket, "addresses", "why"}, strings.Fields(tt.args)...)...)
		if out != tt.want || code != tt.code || len(asked) == 0 || asked[len(asked)-1] != tt.last {
			t.Errorf("%s: exit %d, asked %+v, got:\n%s", tt.args, code, asked, out)
		}
	}
	for _, bad := range []string{"Web_1", "192.0.2.10:http", "192.0.2.10 --from here", "a/b/c"} {
		if _, text, code := call(t, append([]string{"--socket", socket, "addresses", "why"}, strings.Fields(bad)...)...); code != exitUsage || !strings.Contains(text, "no address") {
			t.Errorf("%s: exit %d, %s", bad, code, text)
		}
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
