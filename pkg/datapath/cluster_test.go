// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestCluster sends packets all ways through two nodes: between pods, to a
// ClusterIP, and from outside to a load balancer address, natively and tunnelled.
func TestCluster(t *testing.T) {
	for _, mode := range []struct {
		name      string
		tunnelled bool
	}{{"native", false}, {"tunnel", true}} {
		t.Run(mode.name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				l := newLab(t, mode.tunnelled)
				l.setServices(t)
				for i, f := range families() {
					for _, network := range []string{"tcp", "udp"} {
						t.Run(f.name+"/"+network, func(t *testing.T) { l.testFamily(t, i, f, network) })
					}
				}
				t.Log(l.drops(t))
			})
		})
	}
}

func (l *lab) testFamily(t *testing.T, i int, f family, network string) {
	here, near, far := l.nodes[0].pods[0], l.nodes[0].pods[1], l.nodes[1].pods[0]
	t.Run("pod to pod", func(t *testing.T) {
		for _, to := range []*pod{near, far} {
			l.wantAnswer(t, here.ns, network, net.JoinHostPort(to.addrs[i].String(), "8080"),
				answer{to.addrs[i].String(), here.addrs[i].String()})
		}
	})
	t.Run("pod to ClusterIP", func(t *testing.T) {
		l.wantAll(t, here.ns, network, f.clusterIP, i, here.addrs[i].String())
	})
	t.Run("pod to load balancer", func(t *testing.T) {
		l.wantAll(t, far.ns, network, f.loadBalancer, i, far.addrs[i].String())
	})
	t.Run("client to load balancer", func(t *testing.T) {
		l.wantAll(t, l.client, network, f.loadBalancer, i, f.client)
	})
	t.Run("node to pod", func(t *testing.T) {
		for _, to := range []*pod{here, far} {
			l.wantAnswer(t, l.nodes[0].ns, network, net.JoinHostPort(to.addrs[i].String(), "8080"), answer{to.addrs[i].String(), ""})
		}
	})
}

func (l *lab) wantAnswer(t *testing.T, from *netlab.Namespace, network, to string, want answer) {
	t.Helper()
	got, err := askFrom(from, network, to, "?")
	if want.client == "" {
		want.client = got.client
	}
	if err != nil || got != want {
		t.Errorf("%s: want answer %v, got %v, %v; drops: %s", to, want, got, err, l.drops(t))
	}
}

// wantAll asks often enough that every pod answers, and wants each to see client.
func (l *lab) wantAll(t *testing.T, from *netlab.Namespace, network, addr string, i int, client string) {
	t.Helper()
	to := net.JoinHostPort(addr, "80")
	seen := map[string]int{}
	for range 60 {
		got, err := askFrom(from, network, to, "?")
		if err != nil {
			t.Fatalf("%s: %v (so far %v); drops: %s", to, err, seen, l.drops(t))
		}
		// A pod that reaches itself sees whom the packet path says it is.
		if got.client != client && got.pod != client {
			t.Errorf("%s: want client %s at %s, it saw %s", to, client, got.pod, got.client)
		}
		seen[got.pod]++
	}
	for _, n := range l.nodes {
		for _, p := range n.pods {
			if seen[p.addrs[i].String()] == 0 {
				t.Errorf("%s: want some of 60 answers from %s, got %v", to, p.addrs[i], seen)
			}
		}
	}
}
