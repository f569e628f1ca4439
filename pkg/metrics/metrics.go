// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the agent does and shows it to Prometheus. Names
// are patchbay_*, and kube-proxy's own where they mean the same. Of those that
// kube-proxy has in every mode none is missing. Of its modes' own there are
// none: full and partial syncs are one here, there are no rules to count or to
// fail to restore, and flows aren't the kernel's to reconcile.
package metrics

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// Address is where the agent's metrics are served.
const Address = ":10249"

// Reader is what is asked at each scrape.
type Reader interface {
	Drops() ([]agentapi.Drop, error)
	Info() (agentapi.Info, error)
	ListLeases() ([]agentapi.Lease, error)
	Services() []agentapi.Service
}

// Mode is what /proxyMode answers, where kube-proxy says iptables or nftables.
const Mode = "ebpf"

// families are the values of kube-proxy's label ip_family. It has a proxy for
// each; one pass of ours is for both, and counts as one of each.
func families() []string { return []string{"IPv4", "IPv6"} }

// Agent is the agent's metrics. Make one with New. It counts what a Reconciler
// does.
type Agent struct {
	registry    *prometheus.Registry
	passes      *prometheus.HistogramVec
	last        *prometheus.GaugeVec
	queued      *prometheus.GaugeVec
	failures    prometheus.Counter
	services    changes
	endpoints   changes
	programming *prometheus.HistogramVec
	probes      map[string]*prometheus.CounterVec // by path
	conflicts   prometheus.Counter

	mu     sync.Mutex
	oldest time.Time // change of Services that is not in force; zero: none
}

// changes counts those of one kind.
type changes struct {
	total   prometheus.Counter
	pending prometheus.Gauge
}

func newChanges(name, what string) changes {
	return changes{
		total:   counter("kubeproxy_sync_proxy_rules_"+name+"_changes_total", "Changes of "+what+"."),
		pending: gauge("kubeproxy_sync_proxy_rules_"+name+"_changes_pending", "Changes of "+what+" that are not in force yet."),
	}
}

func (c changes) inc() {
	c.total.Inc()
	c.pending.Inc()
}

// New returns the metrics of an agent that reader describes.
func New(reader Reader) *Agent {
	a := &Agent{
		registry: prometheus.NewRegistry(),
		passes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubeproxy_sync_proxy_rules_duration_seconds", Help: "Duration of a pass that brings the node to what the objects say.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{familyLabel}),
		last:      gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last pass ended that brought all parts to what the objects say."),
		queued:    gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a Service or EndpointSlice last changed."),
		failures:  counter("patchbay_sync_failures_total", "Parts of the node that a pass could not bring to what the objects say."),
		services:  newChanges("service", "Services"),
		endpoints: newChanges("endpoint", "EndpointSlices"),
		programming: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubeproxy_network_programming_duration_seconds", Help: "Time from what changed an endpoint to its being balanced so.",
			Buckets: slices.Concat([]float64{0}, prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7)),
		}, []string{familyLabel}),
		conflicts: counter("patchbay_address_conflicts_total", "LoadBalancer addresses that this node found in use by another machine, before they were given or afterwards."),
		probes: map[string]*prometheus.CounterVec{
			"/healthz": codes("kubeproxy_proxy_healthz_total", "Answers of /healthz."),
			"/livez":   codes("kubeproxy_proxy_livez_total", "Answers of /livez."),
		},
	}
	a.registry.MustRegister(a.passes, a.last, a.queued, a.failures, a.services.total, a.services.pending,
		a.endpoints.total, a.endpoints.pending, a.programming, a.conflicts, a.probes["/healthz"], a.probes["/livez"], collector{reader},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

const familyLabel = "ip_family"

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func gauges(name, help string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{familyLabel})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func codes(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"code"})
}

// Conflict counts an address that another machine uses.
func (a *Agent) Conflict() { a.conflicts.Inc() }

// Changed counts an object's change.
func (a *Agent) Changed(kind source.Kind) {
	switch kind {
	case source.KindService:
		a.services.inc()
	case source.KindEndpointSlice:
		a.endpoints.inc()
	default:
		return
	}
	for _, family := range families() {
		a.queued.WithLabelValues(family).SetToCurrentTime()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.oldest.IsZero() {
		a.oldest = time.Now()
	}
}

// Pending is since when a change of Services waits to be in force, zero if none does.
func (a *Agent) Pending() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.oldest
}

// Pass counts one pass.
func (a *Agent) Pass(took time.Duration, failed int) {
	a.failures.Add(float64(failed))
	for _, family := range families() {
		a.passes.WithLabelValues(family).Observe(took.Seconds())
		if failed == 0 {
			a.last.WithLabelValues(family).SetToCurrentTime()
		}
	}
}

// InForce counts how long changes of each family's endpoints took. All Services
// are in force now.
func (a *Agent) InForce(v4, v6 []time.Time) {
	for family, since := range map[string][]time.Time{"IPv4": v4, "IPv6": v6} {
		for _, t := range since {
			a.programming.WithLabelValues(family).Observe(time.Since(t).Seconds())
		}
	}
	a.services.pending.Set(0)
	a.endpoints.pending.Set(0)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.oldest = time.Time{}
}

// Probed counts an answer of /healthz or /livez.
func (a *Agent) Probed(path string, code int) {
	if c := a.probes[path]; c != nil {
		c.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

// Handler serves /metrics, and what else is asked for on kube-proxy's port.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	for path, text := range map[string]string{"/healthz": "ok", "/proxyMode": Mode} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = io.WriteString(w, text) // the client may be gone
		})
	}
	return mux
}
