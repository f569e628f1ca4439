// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the agent does and shows it to Prometheus. Names
// are patchbay_*, and kube-proxy's own where they mean the same.
package metrics

import (
	"net/http"
	"slices"
	"strconv"
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
}

// Agent is the agent's metrics. Make one with New. It counts what a Reconciler
// does.
type Agent struct {
	registry    *prometheus.Registry
	passes      prometheus.Histogram
	last        prometheus.Gauge
	queued      prometheus.Gauge
	failures    prometheus.Counter
	services    prometheus.Counter
	endpoints   prometheus.Counter
	programming prometheus.Histogram
	probes      map[string]*prometheus.CounterVec // by path
}

// New returns the metrics of an agent that reader describes.
func New(reader Reader) *Agent {
	a := &Agent{
		registry: prometheus.NewRegistry(),
		passes: histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Duration of a pass that brings the node to what the objects say.",
			prometheus.ExponentialBuckets(0.001, 2, 15)),
		last:      gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last pass ended that brought all parts to what the objects say."),
		queued:    gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a Service or EndpointSlice last changed."),
		failures:  counter("patchbay_sync_failures_total", "Parts of the node that a pass could not bring to what the objects say."),
		services:  counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services."),
		endpoints: counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."),
		programming: histogram("kubeproxy_network_programming_duration_seconds", "Time from what changed an endpoint to its being balanced so.",
			slices.Concat(prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7))),
		probes: map[string]*prometheus.CounterVec{
			"/healthz": codes("kubeproxy_proxy_healthz_total", "Answers of /healthz."),
			"/livez":   codes("kubeproxy_proxy_livez_total", "Answers of /livez."),
		},
	}
	a.registry.MustRegister(a.passes, a.last, a.queued, a.failures, a.services, a.endpoints, a.programming,
		a.probes["/healthz"], a.probes["/livez"], collector{reader},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func codes(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"code"})
}

// Changed counts an object's change.
func (a *Agent) Changed(kind source.Kind) {
	switch kind {
	case source.KindService:
		a.services.Inc()
	case source.KindEndpointSlice:
		a.endpoints.Inc()
	default:
		return
	}
	a.queued.SetToCurrentTime()
}

// Pass counts one pass.
func (a *Agent) Pass(took time.Duration, failed int) {
	a.passes.Observe(took.Seconds())
	a.failures.Add(float64(failed))
	if failed == 0 {
		a.last.SetToCurrentTime()
	}
}

// InForce counts how long changes took.
func (a *Agent) InForce(since []time.Time) {
	for _, t := range since {
		a.programming.Observe(time.Since(t).Seconds())
	}
}

// Probed counts an answer of /healthz or /livez.
func (a *Agent) Probed(path string, code int) {
	if c := a.probes[path]; c != nil {
		c.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

// Handler serves /metrics.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	return mux
}

// collector asks for what others count.
type collector struct{ reader Reader }

func dropPackets() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_drop_packets_total", "Packets dropped, by reason.", []string{"reason"}, nil)
}

func dropBytes() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_drop_bytes_total", "Bytes of packets dropped, by reason.", []string{"reason"}, nil)
}

func leases() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_leases", "Pods' leases and resting addresses, by state.", []string{"state"}, nil)
}

func objects() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_objects", "What is in force, by kind.", []string{"kind"}, nil)
}

func ready() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_ready", "1 while pods can be added.", nil, nil)
}

func problems() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_problems", "Objects that can't be used and things that can't be done, at present.", nil, nil)
}

// Describe tells which metrics there are.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{dropPackets(), dropBytes(), leases(), objects(), ready(), problems()} {
		out <- d
	}
}

// Collect asks for the values.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c.drops(out)
	c.leases(out)
	info, err := c.reader.Info()
	if err != nil {
		out <- prometheus.NewInvalidMetric(ready(), err)
		return
	}
	for kind, n := range map[string]int{
		"pods": info.Counts.Pods, "services": info.Counts.Services, "frontends": info.Counts.Frontends,
		"backends": info.Counts.Backends, "nodes": info.Counts.Nodes, "announcements": info.Counts.Announced,
	} {
		out <- prometheus.MustNewConstMetric(objects(), prometheus.GaugeValue, float64(n), kind)
	}
	value := 0.0
	if info.Ready {
		value = 1
	}
	out <- prometheus.MustNewConstMetric(ready(), prometheus.GaugeValue, value)
	out <- prometheus.MustNewConstMetric(problems(), prometheus.GaugeValue, float64(len(info.Problems)))
}

func (c collector) drops(out chan<- prometheus.Metric) {
	drops, err := c.reader.Drops()
	if err != nil {
		out <- prometheus.NewInvalidMetric(dropPackets(), err)
		return
	}
	for _, d := range drops {
		out <- prometheus.MustNewConstMetric(dropPackets(), prometheus.CounterValue, float64(d.Packets), d.Reason)
		out <- prometheus.MustNewConstMetric(dropBytes(), prometheus.CounterValue, float64(d.Bytes), d.Reason)
	}
}

func (c collector) leases(out chan<- prometheus.Metric) {
	list, err := c.reader.ListLeases()
	if err != nil {
		out <- prometheus.NewInvalidMetric(leases(), err)
		return
	}
	states := map[string]int{"active": 0, "cooling": 0, "damaged": 0}
	for _, l := range list {
		states[l.State]++
	}
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(leases(), prometheus.GaugeValue, float64(n), state)
	}
}
