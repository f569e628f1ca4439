// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/patchbay-net/patchbay/cmd/internal/controller/network"
	"github.com/patchbay-net/patchbay/cmd/internal/controller/status"
	"github.com/patchbay-net/patchbay/ipam/loadbalancer"
)

// meter shows Prometheus what the controller gives and what it lacks.
type meter struct {
	registry  *prometheus.Registry
	pools     *prometheus.GaugeVec
	waiting   *prometheus.GaugeVec
	conflicts *prometheus.CounterVec
	early     prometheus.Counter
	failures  prometheus.Counter

	mu     sync.Mutex
	claims map[network.Claim]bool // counted
}

func newMeter() *meter {
	m := &meter{
		registry: prometheus.NewRegistry(),
		pools: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "patchbay_pool_addresses", Help: "Addresses of a pool, by state. Stray ones were given and are no longer the pool's.",
		}, []string{"pool", "state"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "patchbay_services_waiting", Help: "Services that lack an address that they want, by reason.",
		}, []string{"reason"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "patchbay_address_conflicts_total", Help: "Addresses of pools that other machines were found to use: by search before the address was given, or by their claim afterwards.",
		}, []string{"found"}),
		early: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "patchbay_addresses_early_total", Help: "Addresses given before they had rested in full, as no other was free.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "patchbay_controller_failures_total", Help: "Attempts to bring records and statuses in line that failed.",
		}),
		claims: map[network.Claim]bool{},
	}
	m.registry.MustRegister(m.pools, m.waiting, m.conflicts, m.early, m.failures,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, found := range []string{"search", "claim"} {
		m.conflicts.WithLabelValues(found)
	}
	return m
}

// planned takes in what was planned.
func (m *meter) planned(result loadbalancer.Result, claims []network.Claim) {
	m.pools.Reset()
	for _, u := range result.Usage {
		for state, n := range map[string]uint64{
			"total": u.Total, "used": u.Used, "free": u.Total - min(u.Used, u.Total), "conflicted": u.Conflicted, "stray": u.Strays,
		} {
			m.pools.WithLabelValues(u.Pool, state).Set(float64(n))
		}
	}
	m.waiting.Reset()
	for _, as := range result.Assignments {
		if as.Reason != nil {
			m.waiting.WithLabelValues(status.ReasonOf(as.Reason)).Inc()
		}
	}
	m.early.Add(float64(result.Early))
	m.conflicts.WithLabelValues("search").Add(float64(len(result.Conflicts)))
	m.claimed(claims)
}

// claimed counts the claims that are new.
func (m *meter) claimed(claims []network.Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := map[network.Claim]bool{}
	for _, c := range claims {
		if !m.claims[c] {
			m.conflicts.WithLabelValues("claim").Inc()
		}
		now[c] = true
	}
	m.claims = now
}

// handler serves /metrics, and what else is given.
func (m *meter) handler(rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}
