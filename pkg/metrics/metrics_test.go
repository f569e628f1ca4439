// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/source"
)

type fixed struct{ err error }

func (f fixed) Drops() ([]agentapi.Drop, error) {
	return []agentapi.Drop{{Reason: "pod-source", Packets: 3, Bytes: 300}}, f.err
}

func (f fixed) Info() (agentapi.Info, error) {
	return agentapi.Info{Ready: true, Counts: agentapi.Counts{Services: 7}, Problems: []agentapi.Problem{
		{Object: "object EndpointSlice shop/web-a"}, {Object: "object EndpointSlice shop/web-b"}, {Object: "source IPPool x"}, {Object: "nic/eth0"}, {Object: "agent/custom routes"},
	}}, nil
}

func (f fixed) ListLeases() ([]agentapi.Lease, error) {
	return []agentapi.Lease{{State: "active"}, {State: "active"}, {State: "cooling"}}, nil
}

func (f fixed) Services() []agentapi.Service {
	front := func(addr, kind, empty string, backends ...agentapi.Backend) agentapi.Service {
		return agentapi.Service{Name: "web", Kind: kind, Frontend: netip.MustParseAddrPort(addr), Empty: empty, Backends: backends}
	}
	return []agentapi.Service{
		front("10.0.0.1:80", "ClusterIP", "drop"), front("[fd00::1]:80", "ClusterIP", "drop", agentapi.Backend{}),
		front("192.0.2.1:80", "LoadBalancer", "drop"), front("0.0.0.0:30080", "NodePort", "drop"),
		front("192.0.2.2:80", "ExternalIP", "reject"),
	}
}

func TestScrape(t *testing.T) {
	a := New(fixed{})
	a.Pass(3*time.Millisecond, 2)
	a.Changed(source.KindService)
	a.InForce([]time.Time{time.Now().Add(-3 * time.Second)}, make([]time.Time, 2))
	a.Probed("/healthz", 503)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`patchbay_drop_packets_total{reason="pod-source"} 3`, `patchbay_drop_bytes_total{reason="pod-source"} 300`,
		`patchbay_leases{state="active"} 2`, `patchbay_objects{kind="services"} 7`, "patchbay_ready 1",
		`patchbay_problems{about="EndpointSlice"} 2`, `patchbay_problems{about="IPPool"} 1`, `patchbay_problems{about="Service"} 0`,
		`patchbay_problems{about="nic"} 1`, `patchbay_problems{about="agent"} 1`,
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1`, "patchbay_sync_failures_total 2",
		"kubeproxy_sync_proxy_rules_service_changes_total 1", `kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="4"} 1`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"} 2`,
		`kubeproxy_proxy_healthz_total{code="503"} 1`, "kubeproxy_sync_proxy_rules_service_changes_pending 0",
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="internal"} 0`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("metrics lack %q:\n%s", want, w.Body)
		}
	}
}

func TestScrapeSaysErrors(t *testing.T) {
	w := httptest.NewRecorder()
	New(fixed{errors.New("maps are gone")}).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), "maps are gone") {
		t.Errorf("status %d: %s, want the error said", w.Code, w.Body)
	}
}

func TestPending(t *testing.T) {
	a := New(fixed{})
	if !a.Pending().IsZero() {
		t.Errorf("nothing changed, pending since %v", a.Pending())
	}
	a.Changed(source.KindNode)
	if !a.Pending().IsZero() {
		t.Errorf("a Node changed, pending since %v", a.Pending())
	}
	a.Changed(source.KindService)
	first := a.Pending()
	a.Changed(source.KindEndpointSlice)
	if first.IsZero() || a.Pending() != first {
		t.Errorf("pending since %v, want the first change's %v", a.Pending(), first)
	}
	a.InForce(nil, nil)
	if !a.Pending().IsZero() {
		t.Errorf("all in force, pending since %v", a.Pending())
	}
}

func TestProxyPaths(t *testing.T) {
	h := New(fixed{}).Handler()
	for path, want := range map[string]string{"/healthz": "ok", "/proxyMode": Mode} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || w.Body.String() != want {
			t.Errorf("GET %s = %d %q, want %q", path, w.Code, w.Body, want)
		}
	}
}
