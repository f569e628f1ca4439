// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the agent does and shows it to Prometheus. Names
// are patchbay_*, and kube-proxy's own where they mean the same.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Address is where the agent's metrics are served.
const Address = ":10249"

// Reader is what is asked at each scrape.
type Reader interface {
	Drops() ([]agentapi.Drop, error)
	Info() (agentapi.Info, error)
	ListLeases() ([]agentapi.Lease, error)
}

// Agent is the agent's metrics. Make one with New.
type Agent struct {
	registry *prometheus.Registry
	passes   prometheus.Histogram
	failures prometheus.Counter
}

// New returns the metrics of an agent that reader describes.
func New(reader Reader) *Agent {
	a := &Agent{
		registry: prometheus.NewRegistry(),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubeproxy_sync_proxy_rules_duration_seconds", Help: "Duration of a pass that brings the node to what the objects say.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "patchbay_sync_failures_total", Help: "Parts of the node that a pass could not bring to what the objects say.",
		}),
	}
	a.registry.MustRegister(a.passes, a.failures, collector{reader},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

// Pass counts one pass.
func (a *Agent) Pass(took time.Duration, failed int) {
	a.passes.Observe(took.Seconds())
	a.failures.Add(float64(failed))
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
